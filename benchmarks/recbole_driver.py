"""RecBole's own training and evaluation loops, one order at a time.

Runs in an environment of RecBole's, which has no mbrec: `recbole_lightgcn.py` and `evaluation.py`
start it. Reads orders from stdin and answers each with one line of JSON on stdout:

    {"open": folder, "model": "LightGCN", "config": {…}}   → {"users": U, "items": I, "steps": n}
    {"on": folder, "factors": file of two arrays}           → {}
    {"on": folder, "train": steps}                          → {"seconds": s}
    {"on": folder, "evaluate": true}                        → {"seconds": s, "metrics": {…}}

A checkpoint is neither written nor read: RecBole 1.2.1 cannot load its own with torch from 2.6 on.
"""

import json
import logging
import os
import sys
import time
import warnings

import numpy as np
import torch

PLAIN = {
    "benchmark_filename": ["train", "valid", "test"],
    "load_col": {"inter": ["user_id", "item_id"]},
    "use_gpu": False,
    "show_progress": False,
    "state": "ERROR",
    "seed": 1,
}


class Some:
    """The next batches of a loader that begins again when it is through."""

    def __init__(self, loader):
        self._loader, self._running = loader, iter(loader)

    def take(self, count):
        """The next `count` batches, from the start again at the end."""
        while count:
            for batch in self._running:
                yield batch
                count -= 1
                if not count:
                    return
            self._running = iter(self._loader)


class Session:
    """One model on one dataset."""

    def __init__(self, folder, model, config):
        from recbole.config import Config
        from recbole.data import create_dataset, data_preparation
        from recbole.utils import get_model, get_trainer

        path, name = os.path.split(folder)
        settings = {**PLAIN, "data_path": path, **config}
        self.config = Config(model=model, dataset=name, config_dict=settings)
        dataset = create_dataset(self.config)
        train, self.valid, _ = data_preparation(self.config, dataset)
        self.dataset, self.some, self.steps = dataset, Some(train), len(train)
        self.model = get_model(model)(self.config, train._dataset).to(self.config["device"])
        self.trainer = get_trainer(self.config["MODEL_TYPE"], model)(self.config, self.model)
        self.trainer.eval_collector.data_collect(train)

    def train(self, steps):
        """Time some steps of RecBole's own training loop."""
        start = time.perf_counter()
        self.trainer._train_epoch(self.some.take(steps), 0)
        return {"seconds": time.perf_counter() - start}

    def evaluate(self):
        """Time RecBole's own evaluation, and give its metrics."""
        start = time.perf_counter()
        found = self.trainer.evaluate(self.valid, load_best_model=False)
        return {"seconds": time.perf_counter() - start, "metrics": dict(found)}

    def load(self, file):
        """Take the rows of two arrays, by the numbers that the ids are."""
        given = np.load(file)
        for field, table, rows in (
            (self.dataset.uid_field, self.model.user_embedding, given["user"]),
            (self.dataset.iid_field, self.model.item_embedding, given["item"]),
        ):
            places = self.dataset.field2id_token[field][1:].astype(np.int64)
            table.weight.data[1:] = torch.from_numpy(rows[places])


def main():
    """Answer the orders on standard input, one JSON object per line, until it ends."""
    answers, sys.stdout = sys.stdout, sys.stderr
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    sessions = {}
    for line in sys.stdin:
        order = json.loads(line)
        answer = {}
        if "open" in order:
            session = Session(order["open"], order["model"], order["config"])
            sessions[order["open"]] = session
            answer = {"users": session.dataset.user_num - 1, "items": session.dataset.item_num - 1}
            answer["steps"] = session.steps
        elif "factors" in order:
            sessions[order["on"]].load(order["factors"])
        elif "train" in order:
            answer = sessions[order["on"]].train(order["train"])
        else:
            answer = sessions[order["on"]].evaluate()
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
