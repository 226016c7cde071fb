"""What flowkit offers to tests. Needs the extra ``testing``."""

from flowkit.testing.store_check import check_store

__all__ = ["check_store"]
