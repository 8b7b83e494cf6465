"""Playing with a trained agent: evaluation, and the agent that `engram.load` gives."""
