"""Contenders: the same training step, data and binarisation included, as each library takes it.

Every one starts from the weights of a `Setting`, follows the same single-sample bound (Pythae its
closed-form KL) with Adam at 1e-3 in float32, and binarises the images again in each step. Pyro's
loop is that of its tutorials, with Pyro's default validation. NumPyro takes the threads
that JAX takes, whatever torch has; Pythae's loader shuffles and collates as its trainer does. All
run in one process, which keeps freed memory (`inference.memory`): none pays for page faults.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scripts._bench_pairs import ConvDecoder, Setting, linear_layers, networks
from scripts._bench_timing import CHUNK
from scripts._bench_torch import (
    LeftOut,
    Turn,
    ours,
    pyro_loop,
    torch_compiled,
    torch_cuda_graph,
    torch_eager,
)


def numpyro_steps(setting: Setting, scan: bool) -> Turn:
    """Take the steps of NumPyro's SVI, jitted one by one or scanned `CHUNK` at a time."""
    try:
        import jax  # type: ignore[import-not-found]
        import numpyro  # type: ignore[import-not-found]
        import numpyro.distributions as dist  # type: ignore[import-not-found]
        from jax import numpy as jnp  # type: ignore[import-not-found]
    except ImportError as error:
        raise LeftOut(f"{error.name} is not installed") from error
    if (jax.default_backend() == "cpu") != (setting.split.device.type == "cpu"):
        raise LeftOut(f"JAX computes on {jax.default_backend()}")
    _only_dense(setting)
    levels, size = setting.levels, setting.case.batch_size
    images = jnp.asarray(setting.split.stored.flatten(1).cpu().numpy())
    weights = {
        role: [(_array(m.weight).T, _array(m.bias)) for m in linear_layers(module)]
        for role, module in zip(("decoder", "encoder"), setting.pair(), strict=True)
    }

    def dense(role: str, x: Any) -> Any:
        for place, (weight, bias) in enumerate(weights[role]):
            x = jax.nn.relu(x) if place else x
            x = x @ numpyro.param(f"{role}.{place}.weight", weight)
            x = x + numpyro.param(f"{role}.{place}.bias", bias)
        return x

    def model(x: Any) -> None:
        with numpyro.plate("data", len(x)):
            latent = len(weights["decoder"][0][0])
            z = numpyro.sample("z", dist.Normal(jnp.zeros(latent), 1.0).to_event(1))
            likelihood = dist.Bernoulli(logits=dense("decoder", z)).to_event(1)
            numpyro.sample("x", likelihood, obs=x)

    def guide(x: Any) -> None:
        loc, log_scale = jnp.split(dense("encoder", x), 2, -1)
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))

    svi = numpyro.infer.SVI(
        model, guide, numpyro.optim.Adam(setting.learning_rate), numpyro.infer.Trace_ELBO()
    )

    def binarised(key: Any, images: Any, places: Any) -> Any:
        return jax.random.bernoulli(key, images[places] / levels).astype(jnp.float32)

    def update(images: Any, carry: Any, places: Any) -> tuple[Any, Any]:
        key, drawn = jax.random.split(carry[0])
        state, loss = svi.update(carry[1], binarised(drawn, images, places))
        return (key, state), loss / size

    def chunk(images: Any, carry: Any, places: Any) -> tuple[Any, Any]:
        return jax.lax.scan(partial(update, images), carry, places)

    take = jax.jit(chunk if scan else update)
    key = jax.random.PRNGKey(0)
    carry = (key, svi.init(key, binarised(key, images, np.arange(size))))

    def turn(places: Tensor) -> Tensor:
        nonlocal carry
        rows = places.to(torch.int32).cpu().numpy()
        losses = []
        for row in rows.reshape(-1, CHUNK, size) if scan else rows:
            carry, loss = take(images, carry, row)
            losses.append(loss)
        return torch.tensor(np.array(jnp.stack(losses)))

    return turn


def pythae_epoch(setting: Setting) -> Turn:
    """Take the steps of an epoch of Pythae's trainer over as many data as the steps want."""
    try:
        from pythae.data.datasets import DatasetOutput  # type: ignore[import-not-found]
        from pythae.models import VAE, VAEConfig  # type: ignore[import-not-found]
        from pythae.models.base.base_utils import ModelOutput  # type: ignore[import-not-found]
        from pythae.models.nn import BaseDecoder, BaseEncoder  # type: ignore[import-not-found]
        from pythae.trainers import (  # type: ignore[import-not-found]
            BaseTrainer,
            BaseTrainerConfig,
        )
        from pythae.trainers.training_callbacks import (  # type: ignore[import-not-found]
            CallbackHandler,
        )
    except ImportError as error:
        raise LeftOut(f"{error.name} is not installed") from error
    _only_dense(setting)
    logging.getLogger("pythae.trainers.base_trainer.base_trainer").setLevel(logging.WARNING)
    encode, decode, _ = networks(setting.pair())
    split, levels = setting.split, setting.levels

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = encode

        def forward(self, x: Tensor) -> Any:
            loc, log_scale = self.layers(x).chunk(2, -1)
            return ModelOutput(embedding=loc, log_covariance=2 * log_scale)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = decode

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=self.layers(z).sigmoid())

    class Images(torch.utils.data.Dataset):
        places = setting.places(1).flatten()

        def __len__(self) -> int:
            return len(self.places)

        def __getitem__(self, index: int) -> Any:
            return DatasetOutput(data=torch.bernoulli(split.stored[self.places[index]] / levels))

    config = VAEConfig(
        input_dim=split.event_shape,
        latent_dim=linear_layers(decode)[0].in_features,
        reconstruction_loss="bce",
    )
    images: Any = Images()  # a Dataset of torch's does; Pythae's type wants one of its own
    size = setting.case.batch_size
    training = BaseTrainerConfig(
        per_device_train_batch_size=size,
        learning_rate=setting.learning_rate,
        no_cuda=split.device.type == "cpu",
    )
    vae = VAE(config, encoder=Encoder(), decoder=Decoder())
    trainer = BaseTrainer(vae, images, training_config=training)
    trainer.set_optimizer()
    trainer.callback_handler = CallbackHandler([], model=vae)

    def turn(places: Tensor) -> Tensor:
        images.places = places.flatten()
        return torch.tensor(trainer.train_step(epoch=1))

    return turn


CONTENDERS: dict[str, Callable[[Setting], Turn]] = {
    "pyro": pyro_loop,
    "off": partial(ours, compile="off"),
    "graph": partial(ours, compile="graph"),
    "inductor": partial(ours, compile="inductor"),
    "inductor-bf16": partial(ours, compile="inductor", precision="bf16"),
    "torch": torch_eager,
    "torch.compile": torch_compiled,
    "torch-cuda-graph": partial(torch_cuda_graph, compiled=False),
    "torch.compile-cuda-graph": partial(torch_cuda_graph, compiled=True),
    "numpyro": partial(numpyro_steps, scan=False),
    "numpyro-scan": partial(numpyro_steps, scan=True),
    "pythae": pythae_epoch,
}
"""What can be measured, by name."""


def _only_dense(setting: Setting) -> None:
    _, decoder, flows = networks(setting.pair())
    if flows or isinstance(decoder, ConvDecoder) or setting.case.particles > 1:
        raise LeftOut("only the dense pair with one particle is written for it")


def _array(parameter: Tensor) -> np.ndarray:
    return parameter.detach().cpu().numpy().copy()
