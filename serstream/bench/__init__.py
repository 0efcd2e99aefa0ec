"""``serstream bench``: what serstream costs on this machine, and other libraries beside it. Needs nothing more.

Libraries to compare with come with the extra ``[bench]``.
"""
