"""How fast one evaluation of the engine is against the bare network, and how low its optimiser gets against others.

    python scripts/bench_engine.py --device cpu --batches 1,4 --rounds 12 --out scripts/results/engine-cpu.md

Needs torch and torchvision, and scipy for one of the peers. One run on one device measures:

- ceilings: matrix products in TFLOP/s and copies in GB/s, in the dtype of the convolutions.
- bare: torchvision's own VGG-19 Sequential with average pooling, frozen; forward and the gradient by the input, nothing else. The best of
  contiguous and channels_last, with ReLU in place and not.
- engine: one evaluation of `Stylizer.run` with everything in it: Gram matrices, losses, the whole L-BFGS step. Bare and engine take turns
  inside one optimisation, so that a busy machine slows both. The ratio is the median over turns.
- peers (--peers): the final loss after N evaluations with scipy's L-BFGS-B and with torch.optim.LBFGS on the same loss.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from nstray.engine.losses.objective import Objective
from nstray.engine.network.key_names import FEATURE_INDEX
from nstray.engine.network.weight_files import load_weights
from nstray.engine.network.weights import VGGWeights
from nstray.engine.pair import Pair
from nstray.engine.settings import StylizeConfig
from nstray.engine.stylizer import Stylizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LAST = "conv5_1"  # the deepest tap of the defaults


class Bench:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.device = torch.device(args.device)
        self.dtype = DTYPES[args.dtype]
        self.lines: list[str] = []
        self.weights: VGGWeights = load_weights(args.weights)

    def say(self, text: str = "") -> None:
        print(text, flush=True)
        self.lines.append(text)

    def sync(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], repeat: int = 1) -> float:
        self.sync()
        started = time.perf_counter()
        for _ in range(repeat):
            work()
        self.sync()
        return (time.perf_counter() - started) / repeat

    def header(self) -> None:
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else f"{cpu_name()}, {torch.get_num_threads()} threads"
        self.say(f"date: {datetime.date.today()}  torch {torch.__version__}  python {platform.python_version()}")
        self.say(f"device: {name}")
        self.say(f"command: python scripts/bench_engine.py {' '.join(sys.argv[1:])}")
        self.say()

    def ceilings(self) -> float:
        """TFLOP/s of a large matrix product; prints it and the copy bandwidth."""
        n = 8192 if self.device.type == "cuda" else 2048
        a, b = (torch.randn(n, n, device=self.device).to(self.dtype) for _ in range(2))
        size = 2**28 if self.device.type == "cuda" else 2**26
        source = torch.zeros(size, device=self.device, dtype=self.dtype)
        target = torch.empty_like(source)
        repeat = 20 if self.device.type == "cuda" else 1
        product = min(self.seconds(lambda: a @ b, repeat) for _ in range(6))
        copy = min(self.seconds(lambda: target.copy_(source), repeat) for _ in range(6))
        tflops = 2 * n**3 / product / 1e12
        moved = 2 * source.numel() * source.element_size()
        self.say(f"ceilings ({self.args.dtype}): matrix product {tflops:.3f} TFLOP/s, copy {moved / copy / 1e9:.1f} GB/s")
        return tflops

    def bare(self, channels_last: bool, in_place: bool) -> nn.Sequential:
        layers: list[nn.Module] = []
        for layer in list(make_layers(cfgs["E"], batch_norm=False))[: FEATURE_INDEX[LAST] + 2]:
            if isinstance(layer, nn.MaxPool2d):
                layers.append(nn.AvgPool2d(2))
            else:
                layers.append(nn.ReLU(inplace=in_place) if isinstance(layer, nn.ReLU) else layer)
        network = nn.Sequential(*layers)
        state = {}
        for key, value in self.weights.tensors.items():
            name, kind = key.split(".")
            if f"{FEATURE_INDEX[name]}.{kind}" in network.state_dict():
                state[f"{FEATURE_INDEX[name]}.{kind}"] = value
        network.load_state_dict(state)
        network.requires_grad_(False).to(self.device, self.dtype)
        return network.to(memory_format=torch.channels_last) if channels_last else network

    def best_bare(self, x: Tensor) -> tuple[str, Callable[[], object]]:
        """The fastest of four ways to take the input's gradient through the bare network."""
        ways: dict[str, Callable[[], object]] = {}
        for channels_last in (False, True):
            for in_place in (False, True):
                network = self.bare(channels_last, in_place)
                image = x.to(self.dtype, memory_format=torch.channels_last if channels_last else torch.contiguous_format)

                def step(network: nn.Sequential = network, image: Tensor = image) -> object:
                    image = image.detach().requires_grad_(True)
                    out = network(image)
                    return torch.autograd.grad(out, image, torch.ones_like(out))

                ways[f"{'channels_last' if channels_last else 'contiguous'}, ReLU {'in place' if in_place else 'apart'}"] = step
        times: dict[str, float] = dict.fromkeys(ways, float("inf"))
        repeat = 5 if self.device.type == "cuda" else 1
        for _ in range(4):
            for name, step in ways.items():
                times[name] = min(times[name], self.seconds(step, repeat))
        for name, taken in times.items():
            self.say(f"    bare, {name:30s} {1000 * taken:9.2f} ms")
        best = min(times, key=times.__getitem__)
        return best, ways[best]

    def speed(self, batch: int, size: int, tflops: float) -> None:
        pairs = [Pair(picture(i, size), [picture(100 + i, size)], seed=i) for i in range(batch)]
        x = torch.stack([p.content for p in pairs]).to(self.device)
        self.say(f"\n{batch} x {size} x {size}")
        name, bare = self.best_bare(x)
        stride = 10 if self.device.type == "cuda" else 1
        evaluations = (self.args.rounds + 1) * stride
        stylizer = Stylizer(StylizeConfig(evaluations=evaluations, dtype=self.args.dtype, init="noise"), self.weights, self.device)
        ours: list[float] = []
        theirs: list[float] = []
        clock = time.perf_counter()

        def turn(count: int) -> None:
            nonlocal clock
            if count % stride:
                return
            self.sync()
            taken = (time.perf_counter() - clock) / stride
            if count > stride:  # the first turn holds the set-up
                ours.append(taken)
                theirs.append(self.seconds(bare, stride))
            clock = time.perf_counter()

        stylizer.run(pairs, turn)
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        flop = 2 * 2 * conv_macs(size) * batch
        self.say(f"    best bare: {name}")
        self.say("                      median ms   least ms   per pair, median ms   of the matrix product's rate")
        for label, taken in (("bare", theirs), ("engine", ours)):
            median = statistics.median(taken)
            share = flop / median / 1e12 / tflops
            self.say(f"    {label:16s} {1000 * median:11.2f} {1000 * min(taken):10.2f} {1000 * median / batch:21.2f} {100 * share:28.0f} %")
        quarters = statistics.quantiles(ratios, n=4)
        self.say(
            f"    engine / bare: median of {len(ratios)} turns {statistics.median(ratios):.3f} (middle half {quarters[0]:.3f} to {quarters[2]:.3f}), "
            f"least / least {min(ours) / min(theirs):.3f}"
        )

    def profile(self, batch: int, size: int) -> None:
        """Where an evaluation's time goes, by operation: torch's own profiler over as many evaluations as rounds."""
        from torch.profiler import ProfilerActivity, profile

        pairs = [Pair(picture(i, size), [picture(100 + i, size)], seed=i) for i in range(batch)]
        config = StylizeConfig(evaluations=self.args.rounds, dtype=self.args.dtype, init="noise")
        stylizer = Stylizer(config, self.weights, self.device)
        stylizer.run(pairs)
        on_gpu = self.device.type == "cuda"
        with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as taken:
            stylizer.run(pairs)
            self.sync()
        key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
        found = sorted(taken.key_averages(), key=lambda event: -float(getattr(event, key)))
        total = sum(float(getattr(event, key)) for event in found)
        self.say(f"\nprofile, {batch} x {size} x {size}, {config.evaluations} evaluations: self time by operation")
        for event in found[:16]:
            taken, calls = float(getattr(event, key)), event.count / config.evaluations
            self.say(f"    {event.key[:44]:44s} {calls:7.1f} calls {taken / config.evaluations / 1000:9.2f} ms {100 * taken / total:5.1f} %")

    def peers(self) -> None:
        args = self.args
        self.say(f"\nfinal loss after {args.peer_evaluations} evaluations, {args.peer_size} x {args.peer_size}, start: noise and content")
        self.say(
            f"    {'pair':>4s} {'start':8s} {'engine':>10s} {'scipy':>10s} {'torch, strong Wolfe':>20s} {'torch, step 1':>14s}   lowest / engine"
        )
        shares = []
        for init in ("noise", "content"):
            config = StylizeConfig(evaluations=args.peer_evaluations, init=init, value_range="free")
            stylizer = Stylizer(config, self.weights, self.device)
            pairs = [Pair(picture(i, args.peer_size), [picture(100 + i, args.peer_size)], seed=i) for i in range(args.peer_pairs)]
            for i, (pair, result) in enumerate(zip(pairs, stylizer.run(pairs), strict=True)):
                content = pair.content.to(self.device).unsqueeze(0)
                objective = stylizer.objective([pair], content)
                start = stylizer._start(pair).unsqueeze(0)
                others = [peer(objective, start, args.peer_evaluations) for peer in (scipy_lbfgs, torch_wolfe, torch_plain)]
                lowest = min(o for o in others if o is not None)
                shares.append(lowest / result.loss_total)
                cells = ["absent" if o is None else f"{o:.5g}" for o in others]
                self.say(f"    {i:4d} {init:8s} {result.loss_total:10.5g} {cells[0]:>10s} {cells[1]:>20s} {cells[2]:>14s} {shares[-1]:17.3f}")
        self.say(f"    lowest other / engine: median {statistics.median(shares):.3f}, least {min(shares):.3f} (above 1: the engine is lower)")


class BudgetReached(Exception):
    """The peer has used its evaluations."""


class Counted:
    """A loss of one pair that remembers the lowest value seen and stops at its budget."""

    def __init__(self, objective: Objective, budget: int) -> None:
        self.objective, self.left, self.lowest = objective, budget, float("inf")

    def __call__(self, x: Tensor) -> tuple[float, Tensor]:
        if self.left == 0:
            raise BudgetReached
        self.left -= 1
        loss, gradient, _ = self.objective.evaluate(x)
        value = float(loss[0])
        self.lowest = min(self.lowest, value)
        return value, gradient


def scipy_lbfgs(objective: Objective, start: Tensor, budget: int) -> float | None:
    try:
        from scipy.optimize import minimize
    except ImportError:
        return None
    f = Counted(objective, budget)

    def flat(values: object) -> tuple[float, object]:
        loss, gradient = f(torch.as_tensor(values, dtype=torch.float32, device=start.device).view(start.shape))
        return loss, gradient.flatten().double().cpu().numpy()

    options = {"maxcor": 20, "maxiter": budget, "maxfun": budget, "ftol": 0.0, "gtol": 0.0}
    with contextlib.suppress(BudgetReached):
        minimize(flat, start.flatten().double().cpu().numpy(), jac=True, method="L-BFGS-B", options=options)
    return f.lowest


def _torch_lbfgs(objective: Objective, start: Tensor, budget: int, line_search: str | None) -> float:
    f = Counted(objective, budget)
    x = start.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [x], lr=1, max_iter=budget, max_eval=budget, history_size=20, line_search_fn=line_search, tolerance_grad=0, tolerance_change=0
    )

    def closure() -> Tensor:
        loss, gradient = f(x)
        x.grad = gradient.contiguous()
        return torch.tensor(loss)

    with contextlib.suppress(BudgetReached):
        optimizer.step(closure)
    return f.lowest


def torch_wolfe(objective: Objective, start: Tensor, budget: int) -> float:
    return _torch_lbfgs(objective, start, budget, "strong_wolfe")


def torch_plain(objective: Objective, start: Tensor, budget: int) -> float:
    return _torch_lbfgs(objective, start, budget, None)


def picture(seed: int, size: int) -> Tensor:
    """(3, size, size) over 0..1: waves of a few directions and wavelengths in colours of their own, over a grain; no file, no nstray."""
    g = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    image = torch.full((3, size, size), 0.5)
    for _ in range(8):
        turn, length, phase, sharp = torch.rand(4, generator=g).tolist()
        wave = torch.sin(6.283 * ((x * (turn - 0.5) + y * (0.5 - abs(turn - 0.5))) * (2 + 30 * length**2) + phase))
        colour = torch.rand(3, 1, 1, generator=g) - 0.5
        image += 0.35 * colour * (torch.sign(wave) if sharp > 0.6 else wave)
    return (image + 0.03 * torch.randn(3, size, size, generator=g)).clamp(0, 1)


def conv_macs(size: int) -> int:
    """Multiplications of the convolutions up to LAST for one image; the input's gradient takes as many again."""
    total, channels, side, index = 0, 3, size, 0
    for entry in cfgs["E"]:
        if entry == "M":
            side //= 2
            index += 1
            continue
        total += 9 * channels * int(entry) * side * side
        channels = int(entry)
        if index == FEATURE_INDEX[LAST]:
            break
        index += 2
    return total


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--weights", default="random", help="as nstray takes them; random takes some seconds to make")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batches", default="1,4", help="pairs per batch, comma-separated; empty: no timing")
    parser.add_argument("--rounds", type=int, default=12, help="turns of engine and bare network (of 10 evaluations each on a GPU)")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--profile", action="store_true", help="where the engine's time goes, for the first batch")
    parser.add_argument("--peers", action="store_true", help="compare final losses with other optimisers")
    parser.add_argument("--peer-size", type=int, default=96)
    parser.add_argument("--peer-pairs", type=int, default=3)
    parser.add_argument("--peer-evaluations", type=int, default=100)
    parser.add_argument("--out", type=Path, help="write what is printed here too")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    bench = Bench(args)
    bench.header()
    if args.batches:
        tflops = bench.ceilings()
        for batch in args.batches.split(","):
            bench.speed(int(batch), args.size, tflops)
    if args.profile:
        bench.profile(int(args.batches.split(",")[0] or 1), args.size)
    if args.peers:
        bench.peers()
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text("\n".join(["```", *bench.lines, "```", ""]))


if __name__ == "__main__":
    main()
