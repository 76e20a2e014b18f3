"""Raw-audio generation with state-space models: the library behind the book.

The rooms, from the ground up: ``ssm`` (HiPPO, discretisation, kernels, stability, the S4 layer), ``audio``
and ``quantize``; then ``models``, ``data`` and ``display``; then ``autoregressive``, which makes a backbone a
model of sound; then ``training``, ``evaluation`` and ``official``. Nothing is imported here, so
``import sashimi_lib`` is instant:

>>> import sashimi_lib
>>> sashimi_lib.__version__
'0.1.0'
"""

__version__ = "0.1.0"
