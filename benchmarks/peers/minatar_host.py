"""MinAtar's own games, in Python, for Gymnasium: `benchmarks.peers.minatar_host:MinAtar/Breakout-v1`.

They come with `uv pip install minatar` (GPL-3.0), which does not register them by itself. On the device the games are
pgx's, `minatar-breakout`; a cluster's actors play in environments of the host.
"""

import minatar.gym

minatar.gym.register_envs()
