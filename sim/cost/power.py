"""Clock that a power limit leaves to a kernel, and the power a kernel draws."""

from __future__ import annotations

from sim.inputs import catalogue
from sim.inputs.architecture import measured_board, same_chip, whole_board
from sim.inputs.gpu import Gpu
from sim.records import dataclass

ATTENTION_INTENSITY = 0.6  # tensor-core activity of fused attention beside a dense product; assumed


@dataclass(frozen=True, slots=True)
class PowerConstants:
    """Power of one GPU generation, as measured on a board of it at its stock limit.

    Attributes
    ----------
    gemm_clock : float
        Sustained over quoted clock in long runs of dense products at the stock limit.
    exponent : float
        Dynamic power ~ clock ** exponent (voltage falls with the clock).
    memory_share : float
        Power of a memory-bound kernel above idle, over that of a dense product at full clock.
    table_clock : float
        Clock at which the tables were measured that give shares of peak.
    """

    gemm_clock: float
    exponent: float
    memory_share: float
    table_clock: float = 1.0


@dataclass(frozen=True, slots=True)
class BoardPower:
    """What one board may draw, and what kernels on it would.

    Attributes
    ----------
    limit_w, idle_w : float
        Its power limit, and what it draws at rest. [W]
    products_w : float
        What dense products draw above that at the quoted clock. [W]
    issue_share : float
        Of that, what a kernel draws that keeps the SMs but no tensor core busy.
    memory_w : float
        What a memory-bound kernel draws above idle. [W]
    exponent : float
        Dynamic power ~ clock ** exponent.
    """

    limit_w: float
    idle_w: float
    products_w: float
    issue_share: float
    memory_w: float
    exponent: float

    def clock(self, intensity: float) -> float:
        """Share of the quoted clock that a kernel holds in long runs.

        Parameters
        ----------
        intensity : float
            Tensor-core activity: 1 of dense products, `ATTENTION_INTENSITY` of attention.

        Returns
        -------
        float
            In (0, 1].

        Notes
        -----
        P = idle + D (f/f0)^p, the clock is the largest f <= f0 with P <= limit.

        Source: H100 SXM, quoted at 1.83 GHz, holds 1.4 to 1.7 GHz in dense products at 700 W
        (stas00/ml-engineering compute/accelerator/benchmarks); A100 1.305 of 1.41 GHz in HPL
        (glennklockwood.com); power caps act on compute-bound work first (arXiv 2604.11391).
        """
        wanted = self._dynamic(intensity)
        room = max(self.limit_w - self.idle_w, 0.05 * self.limit_w)
        if wanted <= room:
            return 1.0
        return float(max(0.1, (room / wanted) ** (1 / self.exponent)))

    def watts(self, intensity: float) -> float:
        """Power of such a kernel at the clock it holds. [W]

        No less than a memory-bound one: tensor cores that were cut (H20, RTX 4090) are fed as
        busily. Assumed.
        """
        drawn = self._dynamic(intensity) * self.clock(intensity) ** self.exponent
        return float(min(self.limit_w, self.idle_w + max(drawn, self.memory_w)))

    def memory_bound_watts(self) -> float:
        """Power of a memory-bound kernel. [W]

        It loses no time to a limit below that: a cap lowers the clock of the SMs, not of HBM. Where
        they are so slow that they no longer fill HBM it would; not modelled.
        """
        return min(self.limit_w, self.idle_w + self.memory_w)

    def _dynamic(self, intensity: float) -> float:
        return self.products_w * (self.issue_share + (1 - self.issue_share) * intensity)


def board_power(gpu: Gpu, c: PowerConstants) -> BoardPower:
    """Power of a GPU from that of the board its generation was measured on.

    Notes
    -----
    D of that board's products is (stock - idle) / gemm_clock^p, so that it holds `gemm_clock` at
    its stock limit. Another board of its chip takes as much for a FLOP, and for a byte, but no more
    where its memory is quicker: newer stacks move more for the same power ("within the same power
    profile as the H100", NVIDIA H200 datasheet).

    A chip of another make takes other power for a FLOP: its board is taken to be built for its
    products, which draw the limit it is sold with, whatever it is held to, and no less for a FLOP
    than the board with all of its chip (`whole_board`): a T4 or A10 throttles. Source: Puget
    Systems, "Quad RTX 3090 GPU Power Limiting" (2020): 350 W in training, and 5 % slower when held
    to 280 W.
    """
    board = measured_board(gpu)
    # a sister board's larger memory idles higher; its tensor cores hold the same clock
    idle = min(gpu.idle_power, board.idle_power)
    measured = (board.power_limit - board.idle_power) / c.gemm_clock**c.exponent
    products = measured * gpu.peak_half / board.peak_half
    memory = measured * min(1.0, gpu.memory_bandwidth / board.memory_bandwidth)
    if not same_chip(gpu, board):
        sold = catalogue.sold_as(gpu).power_limit - idle
        whole = whole_board(gpu)
        a_flop = (whole.power_limit - whole.idle_power) / whole.peak_half if whole else 0.0
        memory = max(products, sold)
        products = max(memory, a_flop * gpu.peak_half)
    return BoardPower(
        gpu.power_limit, idle, products, c.memory_share, c.memory_share * memory, c.exponent
    )
