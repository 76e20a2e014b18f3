"""Training data: bundled clips (`bundled`), folders of audio files (`clips`), published corpora (`corpora`).

`split` divides recordings into training, validation and test parts; `recall` generates a synthetic memory
task.
"""
