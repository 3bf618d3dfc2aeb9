"""The opponents that are networks; libraries are imported when they fit.

Shapes: n rows, k members, C classes or 1.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from opponent_models.rows import TaskRows, by_class, predict_test


def realmlp(rows: TaskRows) -> np.ndarray:
    """RealMLP with its tuned defaults (TD); the epoch with the best log loss or squared error of
    the validation rows is kept.

    It has 256 epochs, or as many as the time holds: its rates follow a schedule that is to end.
    """
    from pytabkit import RealMLP_TD_Classifier, RealMLP_TD_Regressor

    options: dict[str, Any] = {"device": "cpu", "n_threads": 1, "random_state": rows.seed}
    kind: Any = RealMLP_TD_Regressor
    if not rows.is_regression:
        kind = RealMLP_TD_Classifier
        # As its authors advise where probabilities are scored and not classes.
        options |= {"val_metric_name": "cross_entropy", "use_ls": False}

    def fitted(n_epochs: int) -> Any:
        y_train = rows.y_train if rows.is_regression else rows.y_train.astype(int)
        y_valid = rows.y_valid if rows.is_regression else rows.y_valid.astype(int)
        model = kind(n_epochs=n_epochs, **options)
        return model.fit(rows.x_train, y_train, rows.x_valid, y_valid)

    started = rows.seconds_left()
    trial = 4  # epochs, to see how long one takes
    fitted(trial)
    an_epoch = (started - rows.seconds_left()) / trial
    n_epochs = int(0.85 * rows.seconds_left() / an_epoch)
    return predict_test(fitted(int(np.clip(n_epochs, 1, 256))), rows)


def tabm(rows: TaskRows) -> np.ndarray:
    """TabM, trained as its authors' example does: stopped early on the validation rows, which also
    choose one of three settings.

    It is narrower than by default (32 members, 512 units): 60 seconds of one thread are five epochs
    of that.
    """
    import torch
    from sklearn.preprocessing import QuantileTransformer
    from tabm import TabM

    torch.manual_seed(rows.seed)
    rng = np.random.default_rng(rows.seed)
    scaler = QuantileTransformer(
        n_quantiles=max(min(len(rows.x_train) // 30, 1000), 10),
        output_distribution="normal",
        subsample=10**9,
        random_state=rows.seed,
    )
    # Noise, so that equal values don't share one quantile.
    scaler.fit(rows.x_train + rng.normal(0, 1e-5, rows.x_train.shape))

    def scaled(x: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(scaler.transform(x), dtype=torch.float32)

    mean = rows.y_train.mean() if rows.is_regression else 0.0
    spread = rows.y_train.std() if rows.is_regression else 1.0
    kind = torch.float32 if rows.is_regression else torch.long
    y_train, y_valid = (
        torch.as_tensor((y - mean) / spread).to(kind) for y in (rows.y_train, rows.y_valid)
    )
    x_train = scaled(rows.x_train)
    x_valid = scaled(rows.x_valid)
    n_outputs = 1 if rows.is_regression else rows.n_classes

    def loss_of(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The mean over members [n, k, C], each of which learns by itself."""
        y = y.repeat_interleave(outputs.shape[1])
        if rows.is_regression:
            return torch.nn.functional.mse_loss(outputs.flatten(), y)
        return torch.nn.functional.cross_entropy(outputs.flatten(0, 1), y)

    @torch.inference_mode()
    def predicted(model: Any, x: torch.Tensor) -> torch.Tensor:
        """The mean of the members' predictions or probabilities [n, C]."""
        model.eval()
        outputs = model(x)
        return (outputs if rows.is_regression else outputs.softmax(-1)).mean(1)

    def valid_loss(model: Any) -> float:
        outputs = predicted(model, x_valid)
        if rows.is_regression:
            return float(((outputs[:, 0] - y_valid) ** 2).mean())
        return float(torch.nn.functional.nll_loss(outputs.clamp_min(1e-12).log(), y_valid))

    def is_late() -> bool:
        return rows.seconds_left() < 0.05 * rows.seconds

    best = np.inf
    best_model = None
    # From its default to strongly held back: a few hundred rows of a thousand inputs need that.
    for rate, decay, dropout in ((2e-3, 3e-4, 0.1), (5e-4, 0.1, 0.5), (1e-3, 1e-2, 0.3)):
        n_inputs = x_train.shape[1]
        shape = {"k": 16, "d_block": 128, "dropout": dropout}
        model = TabM.make(n_num_features=n_inputs, d_out=n_outputs, **shape)
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
        own_best = np.inf
        patience = 8
        while patience and not is_late():
            model.train()
            for batch in torch.randperm(len(x_train)).split(256):
                optimizer.zero_grad()
                loss_of(model(x_train[batch]), y_train[batch]).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
            loss = valid_loss(model)
            patience = 8 if loss < own_best else patience - 1
            own_best = min(loss, own_best)
            if loss < best or best_model is None:
                best = loss
                best_model = copy.deepcopy(model)
    outputs = predicted(best_model, scaled(rows.x_test)).numpy()
    if rows.is_regression:
        return outputs[:, 0] * spread + mean
    return by_class(rows, np.arange(n_outputs), outputs)
