"""AdamW over named parameters, with its moments as named tensors."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from services.trainer.engine.job import Training
from services.trainer.engine.sharding import divided_like, gathered

_STATE = ("step", "exp_avg", "exp_avg_sq")


class Optimizer:
    """Decoupled weight decay on every parameter (arXiv:1711.05101): torch's fused kernel, or else
    one for each operation over all parameters."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], training: Training, *, fused: bool = True
    ) -> None:
        self._names = list(parameters)
        self._parameters = list(parameters.values())
        self._max_norm = training.max_grad_norm or float("inf")
        self._adamw: Any = torch.optim.AdamW(
            self._parameters,
            lr=training.learning_rate,
            weight_decay=training.weight_decay,
            fused=fused,
            foreach=not fused,
        )

    def clip_gradients(self) -> float:
        """Scales all gradients down to the largest norm allowed; returns the norm before."""
        norm = nn.utils.clip_grad_norm_(self._parameters, self._max_norm, foreach=True)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def step(self, learning_rate: float) -> None:
        """Updates the parameters from their gradients, then drops these."""
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._adamw.step()
        self.drop_gradients()

    def drop_gradients(self) -> None:
        self._adamw.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """The moments, by parameter; nothing of one that has not had a gradient yet. Those of
        shards are `gathered`."""
        states = self._adamw.state_dict()["state"]
        return gathered(
            {
                f"{name}/{key}": states[index][key]
                for index, name in enumerate(self._names)
                if index in states
                for key in _STATE
            }
        )

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what `state()` returned; raises KeyError if of a parameter's moments only some
        are there."""
        restored = {
            index: self._moments(name, parameter, state)
            for index, (name, parameter) in enumerate(
                zip(self._names, self._parameters, strict=True)
            )
            if f"{name}/{_STATE[0]}" in state
        }
        groups = self._adamw.state_dict()["param_groups"]
        self._adamw.load_state_dict({"state": restored, "param_groups": groups})

    @staticmethod
    def _moments(name: str, parameter: Tensor, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A parameter's own of a whole state, its shards if it is one."""
        held = {key: state[f"{name}/{key}"].clone() for key in _STATE}
        return {
            key: value if key == "step" else divided_like(value, parameter)
            for key, value in held.items()
        }
