"""What the kernels' tests compare with, written out in NumPy: networks with gradients by the chain rule, and Adam."""

import jax
import numpy as np


class Net:
    """ReLU layers and a linear one. Parameters are a list W1, b1, W2, b2, ...; rows are samples."""

    def __init__(self, params):
        layers = params["params"]
        self.params = [
            np.asarray(layers[f"Dense_{i}"][part], np.float64)
            for i in range(len(layers))
            for part in ("kernel", "bias")
        ]

    def copy(self):
        new = object.__new__(Net)
        new.params = list(self.params)
        return new

    def forward(self, x):
        """Outputs, and the inputs of each layer."""
        inputs = []
        for i in range(0, len(self.params), 2):
            x = np.maximum(x, 0) if i else x
            inputs.append(x)
            x = x @ self.params[i] + self.params[i + 1]
        return x, inputs

    def backward(self, inputs, d):
        """Gradients of `sum(d * outputs)` with respect to the parameters and to the input."""
        grads = []
        for i in reversed(range(len(inputs))):
            grads = [inputs[i].T @ d, d.sum(0), *grads]
            d = d @ self.params[2 * i].T
            d = d * (inputs[i] > 0) if i else d
        return grads, d

    def follow(self, online, tau):
        self.params = [(1 - tau) * old + tau * new for old, new in zip(self.params, online.params, strict=True)]


class Adam:
    """Kingma and Ba's algorithm 1 on a list of arrays."""

    def __init__(self, params, rate):
        self.rate, self.t = rate, 0
        self.m, self.v = [np.zeros_like(p) for p in params], [np.zeros_like(p) for p in params]

    def step(self, params, grads):
        self.t += 1
        for i, g in enumerate(grads):
            self.m[i] = 0.9 * self.m[i] + 0.1 * g
            self.v[i] = 0.999 * self.v[i] + 0.001 * g * g
            m, v = self.m[i] / (1 - 0.9**self.t), self.v[i] / (1 - 0.999**self.t)
            params[i] = params[i] - self.rate * m / (np.sqrt(v) + 1e-8)


def each_of(params):
    """The parameters of each network, of those of several with a leading axis."""
    leaves, structure = jax.tree.flatten(params)
    return [jax.tree.unflatten(structure, each) for each in zip(*leaves, strict=True)]


class TwinCritics:
    """Two critics on `[s, a]` with targets, and the step that both take towards one target."""

    def __init__(self, state):
        self.online, self.slow = (
            [Net(each) for each in each_of(part)] for part in (state.critic.params, state.critic.target_params)
        )
        self.adam = [Adam(net.params, float(state.config.critic_learning_rate)) for net in self.online]

    @staticmethod
    def least(nets, s, a):
        """The smaller value of both, row by row."""
        return np.minimum(*(net.forward(np.concatenate([s, a], 1))[0][:, 0] for net in nets))

    def step(self, s, a, y):
        """One step of both; gives the loss, and the means of values and errors before it."""
        n, values, norm = len(y), [], 0.0
        for net, adam in zip(self.online, self.adam, strict=True):
            value, inputs = net.forward(np.concatenate([s, a], 1))
            grads, _ = net.backward(inputs, 2 * (value - y[:, None]) / n)
            values.append(value[:, 0])
            norm += sum((g**2).sum() for g in grads)
            adam.step(net.params, grads)
        values = np.array(values)
        return {
            "critic_loss": ((values - y) ** 2).mean(1).sum(),
            "q_mean": values.mean(),
            "td_error_abs": np.abs(values - y).mean(),
            "grad_norm_critic": np.sqrt(norm),
        }

    def follow(self, tau):
        for slow, online in zip(self.slow, self.online, strict=True):
            slow.follow(online, tau)


def assert_near(params, net, atol):
    """Parameters of ours beside those of a `Net`."""
    ours = Net(params).params
    for x, y in zip(ours, net.params, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=atol)


def assert_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
