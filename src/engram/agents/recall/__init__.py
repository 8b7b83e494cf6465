"""An agent's use of its external memory: keys and queries, reading, the line of actions that wait for their return, and
the drift of keys.
"""
