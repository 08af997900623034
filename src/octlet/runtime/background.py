"""An engine that is loaded while something else goes on: ONNX Runtime needs no interpreter for it.

Reading and preparing the first scan takes about as long as that, so on two CPUs it costs nothing.
"""

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from octlet.runtime.engine import Engine, Outputs


class BackgroundEngine:
    """Stands for an engine whose loading has begun; its first `run` waits for it, and raises what it raised.

    Attributes:
        name: of the engine.
    """

    def __init__(self, name: str, load: Callable[[], Engine]) -> None:
        self.name = name
        self._engine: Engine | None = None
        self._fault: BaseException | None = None
        # no daemon: a process that ends while native code is at work in one is aborted
        self._thread = threading.Thread(target=self._work, args=(load,))
        self._thread.start()

    def _work(self, load: Callable[[], Engine]) -> None:
        try:
            self._engine = load()
        except BaseException as fault:  # noqa: BLE001 - it is raised again where somebody listens
            self._fault = fault

    def run(self, batch: NDArray[np.float32]) -> Outputs:
        """Compute a batch, as the engine does."""
        self._thread.join()
        if self._engine is None:
            raise self._fault or RuntimeError("no engine was loaded")
        return self._engine.run(batch)
