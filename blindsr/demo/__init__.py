"""A page for one photograph: ``python -m blindsr.demo``."""
