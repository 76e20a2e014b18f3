"""What the notebooks show: figures (`plots`), sounds with pictures (`players`), sliders (`interactive`),
and the subscale ordering drawn (`subscale`).

Nothing here knows a model: the arguments are waveforms, eigenvalues, kernels and strings. It needs the extra
``book``; importing it without raises ImportError, saying what to install.
"""

import importlib

for _package in ("IPython", "ipywidgets", "matplotlib", "PIL"):
    try:
        importlib.import_module(_package)
    except ImportError as error:
        raise ImportError(f'sashimi_lib.display: {error}; pip install "sashimi_lib[book]"') from error
