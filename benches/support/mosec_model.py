"""The model of examples/model.rs as a worker of mosec, for benches/versus-batching.

FIXED_US and ITEM_US are what a call costs, SIZE_MAX is how many items it may have; WAIT_MS is how long mosec waits for
a batch to fill, which is mosec's own default if it is empty.
"""

import os
import time

from mosec import Server, Worker

FIXED_US = int(os.environ.get("FIXED_US", "20000"))
ITEM_US = int(os.environ.get("ITEM_US", "1000"))
SIZE_MAX = int(os.environ.get("SIZE_MAX", "32"))
WAIT_MS = os.environ.get("WAIT_MS", "")


class Model(Worker):
    """Responds to each item with the item."""

    def forward(self, data):
        time.sleep((FIXED_US + ITEM_US * len(data)) / 1e6)
        return data


if __name__ == "__main__":
    server = Server()
    wait = {"max_wait_time": int(WAIT_MS)} if WAIT_MS else {}
    server.append_worker(Model, num=1, max_batch_size=SIZE_MAX, **wait)
    server.run()
