"""Offline training: corpora, network, fitting, scoring and export. Needs the extra ``[train]``."""
