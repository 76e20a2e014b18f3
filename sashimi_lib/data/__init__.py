"""Audio to learn from: clips that ship with the package (`bundled`), folders of one's own
(`clips`), and published corpora (`corpora`).
"""
