"""Display in notebooks: figures (`plots`), audio players (`players`), sliders (`interactive`), and a plot of
the subscale ordering (`subscale`).

Independent of any model: arguments are waveforms, eigenvalues, kernels and strings.
"""
