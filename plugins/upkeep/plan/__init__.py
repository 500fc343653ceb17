"""What the coming windows would do: ``python -m upkeep plan``. Looks, and changes nothing."""

from upkeep.plan.model import Asked, Planned, Slot

__all__ = ["Asked", "Planned", "Slot"]
