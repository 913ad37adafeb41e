"""Pages of the documentation site that are made when it is built. Nothing here imports mkdocs; `docs/hook.py` does."""
