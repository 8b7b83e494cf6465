"""Environments in processes of their own, through gymnasium.vector.AsyncVectorEnv.

Workers are started from a fresh process (`forkserver`, or `spawn` where there is none): a fork of a process in which
JAX runs its threads may stop for ever. What a worker is sent (the environment's maker, actions, states) and sends
back goes over Gymnasium's own pipes.

No call waits for ever: a worker that dies, or does not answer in time, is named in an EnvironmentFault, and the
others are ended.
"""

import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from jaxtyping import PyTree

import engram.errors
from engram.envs import capture as capturing
from engram.envs.batch import HostStep, check_alike, join_captured, split_captured, stack, weakest
from engram.envs.build import EpisodesMaker
from engram.envs.convert import Observer
from engram.envs.wrappers import Level, WorkerEnvironment
from engram.errors import EngramError, EnvironmentFault, SpecError
from engram.spaces import Space

_PATIENCE = 5.0  # seconds for a process to be seen dead, or to follow a request to end
_REPLAY_BATCH = 1000  # actions replayed at a restore within one worker_timeout


class AsyncEnvs:
    """One process for each environment; the slowest decides how long a step takes."""

    def __init__(
        self,
        makers: list[EpisodesMaker],
        observer: Observer,
        actions: int,
        space: Space,
        description: str,
        worker_timeout: float,
    ):
        self._observer = observer
        self._shapes = [((len(makers), *part.shape), part.dtype) for part in observer.parts]
        self._seed = makers[0].seed
        self._timeout = worker_timeout
        self.observation_space = space
        self.actions = actions
        self.envs = len(makers)
        self.description = description
        self._vector = _start([partial(WorkerEnvironment, maker, observer.source, actions) for maker in makers])
        built = self._call("build")
        for index, answer in enumerate(built):
            try:
                check_alike(index, (answer["signature"], answer["actions"]), (observer.signature(), actions))
            except EnvironmentFault:
                self._end()
                raise
        self.level: Level = weakest([answer["level"] for answer in built])

    def reset(self) -> PyTree:
        """See HostEnvs."""
        self._open()
        observation, infos = self._waited(
            partial(self._vector.reset_async, options={"episode": 0}), self._vector.reset_wait, self._timeout, "reset"
        )
        self._check_infos(infos)
        return observation

    def step(self, actions: np.ndarray) -> HostStep:
        """See HostEnvs."""
        self._open()
        observation, reward, terminated, truncated, infos = self._waited(
            partial(self._vector.step_async, np.asarray(actions)), self._vector.step_wait, self._timeout, "step"
        )
        self._check_infos(infos)
        done = terminated | truncated
        final = self._finals(observation, infos["final_obs"], done) if done.any() else observation
        return HostStep(observation, reward.astype(np.float32), terminated, done, final)

    def capture(self) -> capturing.Captured:
        """See HostEnvs."""
        return join_captured(self._call("apply", capturing.capture, [None] * self.envs), self._seed)

    def restore(self, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> PyTree:
        """See HostEnvs. Each 1,000 actions to replay lengthen the time a worker has to answer by `worker_timeout`."""
        captured = split_captured(meta, arrays, self.envs, self._seed)
        longest = max((array.size for name, array in arrays.items() if name.endswith(".actions")), default=0)
        timeout = self._timeout * (1 + longest // _REPLAY_BATCH)
        return stack(
            self._call("apply", capturing.restore, captured, timeout=timeout), self._shapes, self._observer.tree
        )

    def close(self) -> None:
        """See HostEnvs. Workers are asked to close their environments, then ended."""
        if self._vector.closed:
            return
        try:
            for pipe in self._vector.parent_pipes:
                pipe.send(("close", None))
            deadline = time.monotonic() + _PATIENCE
            for process in self._vector.processes:
                process.join(max(deadline - time.monotonic(), 0))
        except OSError:
            pass  # a worker that is gone already needs no closing
        self._end()

    def _call(self, name: str, *arguments: Any, timeout: float | None = None) -> list[Any]:
        self._open()
        send = partial(self._vector.call_async, name, *arguments)
        answers = list(self._waited(send, self._vector.call_wait, timeout or self._timeout, name))
        for index, answer in enumerate(answers):
            if isinstance(answer, dict) and "fault" in answer:
                self._raise_fault(index, answer)
        return answers

    def _waited(self, send: Callable[[], None], wait: Callable[..., Any], timeout: float, doing: str) -> Any:
        """Sends a request and waits for all answers; a worker that gives none ends the batch, with its index named."""
        try:
            send()
            return wait(timeout)
        except multiprocessing.TimeoutError:
            pipes = self._vector.parent_pipes
            late = [index for index, pipe in enumerate(pipes) if pipe is None or not pipe.poll(0)]
            problem = f"{_named(late)} did not answer within {timeout:g} s (call: {doing})"
        except (EOFError, OSError):
            problem = (
                f"{_named(_dead(self._vector.processes))} died (call: {doing}; {_exit_codes(self._vector.processes)})"
            )
        self._end()
        raise EnvironmentFault(
            f"{problem}; the other workers were ended: mend the environment or give a longer worker_timeout, and resume"
        )

    def _check_infos(self, infos: dict[str, Any]) -> None:
        if "fault" in infos:
            index = int(np.flatnonzero(infos["_fault"])[0])
            self._raise_fault(index, {field: infos[field][index] for field in ("fault", "kind", "trace")})

    def _raise_fault(self, index: int, fault: dict[str, str]) -> NoReturn:
        """Ends the workers and raises a worker's error, with its traceback as a note."""
        self._end()
        kind = getattr(engram.errors, fault["kind"], None)
        known = kind if isinstance(kind, type) and issubclass(kind, EngramError) else EnvironmentFault
        text = fault["fault"] if fault["fault"].startswith("environment ") else f"environment {index}: {fault['fault']}"
        error = known(text)
        error.add_note("in the worker:\n" + fault["trace"])
        raise error

    def _finals(self, observation: PyTree, ended: Any, done: np.ndarray) -> PyTree:
        columns = [column.copy() for column in self._observer.flat(observation)]
        for index in np.flatnonzero(done):
            for column, array in zip(columns, self._observer.flat(ended[index]), strict=True):
                column[index] = array
        return self._observer.tree(columns)

    def _open(self) -> None:
        if self._vector.closed:
            raise EnvironmentFault(
                "the environments are closed, by close() or after a fault; make them again and resume"
            )

    def _end(self) -> None:
        _end_workers(self._vector)


def _start(makers: list[Callable[[], WorkerEnvironment]]) -> AsyncVectorEnv:
    methods = multiprocessing.get_all_start_methods()
    # Two steps instead of a call: if starting fails half-way, the processes already started are still at hand.
    vector = AsyncVectorEnv.__new__(AsyncVectorEnv)
    vector.processes, vector.parent_pipes = [], []
    try:
        vector.__init__(
            makers,
            context="forkserver" if "forkserver" in methods else "spawn",
            autoreset_mode=AutoresetMode.SAME_STEP,
        )
    except (EOFError, OSError) as error:
        dead = _dead(vector.processes)
        _end_workers(vector)
        raise EnvironmentFault(
            f"{_named(dead)} died while starting; a script must be a file with `if __name__ == '__main__':`, "
            f"and keep the environment's class and all it uses importable"
        ) from error
    except Exception as error:
        _end_workers(vector)
        raise SpecError(
            f"the environment cannot be sent to worker processes ({type(error).__name__}: {error}); "
            f"give an id or a function that makes everything it needs, or leave out asynchronous"
        ) from error
    return vector


def _end_workers(vector: AsyncVectorEnv) -> None:
    """Ends the processes of this batch and no others; Gymnasium's own close would first wait for their answers."""
    started = [process for process in vector.processes if process.pid is not None]
    for process in started:
        process.terminate()
    for process in started:
        process.join(_PATIENCE)
        if process.is_alive():
            process.kill()
            process.join(_PATIENCE)
    for pipe in vector.parent_pipes:
        if pipe is not None:
            pipe.close()
    vector.closed = True


def _dead(processes: list[Any]) -> list[int]:
    """Indices of ended processes. A pipe may break a moment before its process is seen dead."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        dead = [index for index, process in enumerate(processes) if process.exitcode is not None]
        if dead:
            return dead
        time.sleep(0.01)
    return []


def _exit_codes(processes: list[Any]) -> str:
    codes = [str(process.exitcode) for process in processes if process.exitcode is not None]
    return f"exit code {', '.join(codes)}" if codes else "its pipe is closed"


def _named(indices: list[int]) -> str:
    if len(indices) == 1:
        return f"environment {indices[0]}'s worker"
    return f"the workers of environments {', '.join(map(str, indices))}" if indices else "a worker"
