"""Laws of a list of guidances, on tensors alone."""

from __future__ import annotations

import pytest
import torch

from zero2hero_core.attention.guidance import Guidance, GuidedPass, Pass, Role, check_guidances, plain_attention
from zero2hero_core.attention.protocol import Attention
from zero2hero_core.checks import InputError

NOW = Pass(step=1, timestep=501, frames=(4, 5), size_hw=(4, 4))
Part = torch.Tensor | None


class Recorded(Guidance):
    """Writes down when it comes and goes; adds a number to the value it hands on and one to what comes back."""

    def __init__(
        self, name: str, log: list[str], role: Role = Role.CHAIN, *, layers=(3,), steps=(1,), reads=("value",)
    ):
        self.name, self.log, self.kind = name, log, role
        self.layers, self.steps, self.reads = layers, steps, frozenset(reads)

    def role(self, layer: int, step: int) -> Role:
        return self.kind if layer in self.layers and step in self.steps else Role.NONE

    def needs(self, layer: int, step: int) -> frozenset[str]:
        return self.reads

    def changes(self, layer: int, step: int) -> frozenset[str]:
        return self.reads if self.kind is Role.CHAIN else frozenset()

    def attend(self, now: Pass, layer: int, query: Part, key: Part, value: Part, following: Attention) -> torch.Tensor:
        self.log.append(self.name)
        assert now is NOW
        if self.kind is Role.OUTPUT:
            assert value is not None
            return value * 10
        if value is not None:
            value = value + 1
        out = following(layer, query, key, value)
        self.log.append(f"/{self.name}")
        return out


def parts() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(2, 2, 16, 4, generator=generator) for _ in range(3)]


def test_without_guidances_a_layer_does_plain_attention_and_needs_everything() -> None:
    hook = GuidedPass([], NOW)
    assert hook.needs(3) == {"query", "key", "value"}
    expected = torch.nn.functional.scaled_dot_product_attention(*parts())
    assert torch.equal(hook(3, *parts()), expected)
    assert torch.equal(GuidedPass([Guidance()], NOW)(3, *parts()), expected)


def test_earlier_ones_lie_outside_and_the_maker_of_the_output_innermost_wherever_it_stands() -> None:
    for place in range(3):
        log: list[str] = []
        guidances = [Recorded("a", log), Recorded("b", log)]
        guidances.insert(place, Recorded("maker", log, Role.OUTPUT))
        query, key, value = parts()
        out = GuidedPass(guidances, NOW)(3, query, key, value)
        assert log == ["a", "b", "maker", "/b", "/a"]
        torch.testing.assert_close(out, (value + 2) * 10)


def test_what_is_handed_on_reaches_plain_attention() -> None:
    query, key, value = parts()
    out = GuidedPass([Recorded("a", [])], NOW)(3, query, key, value)
    torch.testing.assert_close(out, plain_attention(3, query, key, value) + 1)  # weights sum to 1


def test_needs_are_those_of_all_that_act() -> None:
    maker, query = Recorded("maker", [], Role.OUTPUT), Recorded("query", [], reads=("query",))
    assert GuidedPass([maker], NOW).needs(3) == {"value"}
    assert GuidedPass([maker, query], NOW).needs(3) == {"value", "query"}
    assert GuidedPass([query], NOW).needs(3) == {"query", "key", "value"}  # plain attention is innermost
    nothing = Recorded("nothing", [], Role.OUTPUT, reads=())
    assert GuidedPass([nothing], NOW).needs(3) == set()


def test_a_guidance_acts_in_its_layers_and_at_its_steps_only() -> None:
    log: list[str] = []
    guidance = Recorded("a", log, layers=(3, 5), steps=(1, 2))
    for step, layer, acts in ((1, 3, True), (1, 4, False), (1, 5, True), (0, 3, False), (2, 3, True)):
        log.clear()
        now = NOW if step == 1 else Pass(step, 501, (4, 5), (4, 4))
        if acts and now is not NOW:
            assert guidance.role(layer, step) is Role.CHAIN
            continue
        out = GuidedPass([guidance], now)(layer, *parts())
        assert bool(log) is acts
        assert torch.equal(out, plain_attention(layer, *parts())) is not acts


def test_two_makers_of_one_output_are_refused_with_their_names_layer_and_step() -> None:
    one, other = (Recorded(name, [], Role.OUTPUT, layers=(3, 6), steps=(2,)) for name in ("flow", "cross-image"))
    with pytest.raises(InputError, match="flow and cross-image both make .* in layer 3 at step 3 of 4"):
        check_guidances([one, other], range(3, 12), 4)
    check_guidances([one, Recorded("x", [], Role.OUTPUT, layers=(6,), steps=(1,))], range(3, 12), 4)
    check_guidances([one, other], range(3, 12), 2)  # the step does not come
    check_guidances([one, other], range(7, 12), 4)  # nor the layers


def test_a_change_that_nobody_reads_is_refused() -> None:
    changes_query, maker = Recorded("sharpen", [], reads=("query",)), Recorded("maker", [], Role.OUTPUT)
    with pytest.raises(InputError, match="sharpen changes query in layer 3 at step 2 of 4, which maker does not read"):
        check_guidances([changes_query, maker], range(3, 12), 4)
    check_guidances([changes_query], range(3, 12), 4)  # plain attention reads it
    check_guidances([changes_query, Recorded("next", [], reads=("query",)), Recorded("m", [], Role.OUTPUT,
                    reads=("query",))], range(3, 12), 4)  # fmt: skip


def test_a_change_of_the_output_is_never_lost() -> None:
    class Finish(Recorded):
        def changes(self, layer: int, step: int) -> frozenset[str]:
            return frozenset({"output"})

    check_guidances([Finish("finish", [], reads=("query",)), Recorded("m", [], Role.OUTPUT)], range(3, 12), 4)
