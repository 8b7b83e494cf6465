"""Pictures of device tasks, which show nothing by themselves."""

from engram.envs.drawing.pictures import boxes, draw

__all__ = ["boxes", "draw"]
