"""Translation: sentence pairs, the tokens they are made of, and chrF token by token.

`python -m engram.envs.translation FOLDER --from libreoffice-de` makes a folder of pairs; see `__main__.py`.
"""
