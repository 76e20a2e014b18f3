"""Display in notebooks: figures (`plots`), audio players (`players`), sliders (`interactive`), and a plot of
the subscale ordering (`subscale`).

Independent of any model: arguments are waveforms, eigenvalues, kernels and strings. It needs the extra
``book``; importing it without raises ImportError, naming what to install.
"""

import importlib

for _package in ("IPython", "ipywidgets", "matplotlib", "PIL"):
    try:
        importlib.import_module(_package)
    except ImportError as error:
        raise ImportError(f'sashimi_lib.display: {error}; pip install "sashimi_lib[book]"') from error
