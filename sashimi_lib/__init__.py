"""Raw-audio generation with state-space models.

The packages, from the ground up:

    checks        range checks of settings
    registry      configs by name
    storage       atomic files, locks, files of tensors
    ssm           HiPPO, discretization, kernels, stability, the S4 layer
    audio         audio files, resampling, quantizers, mel spectrograms
    models        SaShiMi, WaveNet, SampleRNN, WaveRNN, DiffWave; the autoregressive audio model
    data          bundled clips, folders of recordings, published corpora
    display       figures, audio players and sliders for notebooks
    official      loading published weights
    diffusion     noise schedules, samplers, the diffusion model
    evaluation    likelihoods, distances, listening classifiers
    training      optimization, checkpoints, distributed training, recipes
    streaming     compiled generation and resumable streams
    pretrained    bundled and user models in safetensors files
    cli           the command ``sashimi``

Nothing is imported here, so ``import sashimi_lib`` is fast:

>>> import sashimi_lib
>>> sashimi_lib.__version__
'0.1.0'
"""

__version__ = "0.1.0"
