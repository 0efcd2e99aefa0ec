"""The paper's models, its figures, and what is left of them rung by rung. Needs the extras ``[train,reproduce]``."""
