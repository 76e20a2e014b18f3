"""What the notebooks show: figures (`plots`), sounds with pictures (`players`), sliders (`interactive`),
and the subscale ordering drawn (`subscale`).

Nothing here knows a model: the arguments are waveforms, eigenvalues, kernels and strings.
"""
