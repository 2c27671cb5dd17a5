"""Guides by hand-made pictures."""

from __future__ import annotations

import pytest
import torch

from zero2hero_core.checks import InputError, ShapeError
from zero2hero_core.propagation.guides import GuideWeights, Pair, edges, frame_guides, places


def test_edges_of_a_bright_pixel_keep_their_sign() -> None:
    picture = torch.full((3, 5, 5), 0.25)
    picture[:, 2, 2] = 0.5
    found = edges(picture)
    assert found.shape == (1, 5, 5)
    torch.testing.assert_close(found[0, 2], torch.tensor([0.0, -0.25, 1.0, -0.25, 0.0]))
    torch.testing.assert_close(found[0, 1], torch.tensor([0.0, 0.0, -0.25, 0.0, 0.0]))


def test_a_flat_picture_has_no_edges_at_its_border() -> None:
    assert edges(torch.full((3, 4, 6), 0.5)).abs().max() < 1e-6


def test_guides_in_their_order_with_their_weights_and_channels() -> None:
    frame, flow = torch.rand(3, 8, 12), torch.zeros(8, 12, 2)
    guides = frame_guides(
        frame,
        frame,
        flow,
        GuideWeights(mask=3.0, features=1.5),
        temporal=Pair(frame, frame),
        masks=Pair(torch.ones(8, 12), torch.zeros(8, 12)),
        features=Pair(torch.rand(7, 2, 3), torch.rand(7, 2, 3)),
    )
    assert [(guide.key.shape[0], guide.weight) for guide in guides] == [
        (3, 6.0),
        (1, 0.5),
        (2, 4 / 3),
        (3, 0.5),
        (1, 3.0),
        (7, 1.5),
    ]
    assert all(guide.key.shape[1:] == guide.target.shape[1:] == (8, 12) for guide in guides)


def test_position_follows_the_flow_in_fractions_of_a_pixel() -> None:
    frame, flow = torch.rand(3, 8, 16), torch.zeros(8, 16, 2)
    flow[..., 0], flow[..., 1] = 0.25, -1.5
    position = frame_guides(frame, frame, flow, GuideWeights(colour=0, edges=0))[0]
    torch.testing.assert_close(position.key[:, 4, 5], torch.tensor([5 / 16, 4 / 16]))
    torch.testing.assert_close(position.target[:, 4, 5], torch.tensor([5.25 / 16, 2.5 / 16]))
    torch.testing.assert_close(position.target[:, 0, 15], torch.tensor([15 / 16, 0.0]))  # the flow leaves the key


def test_features_of_any_scale_come_to_one_range() -> None:
    frame = torch.rand(3, 8, 8)
    pair = Pair(torch.tensor([[[-4.0]]]), torch.tensor([[[6.0]]]))
    guide = frame_guides(frame, frame, torch.zeros(8, 8, 2), features=pair)[-1]
    assert guide.key.unique().tolist() == [0.0] and guide.target.unique().tolist() == [1.0]


def test_a_weight_of_0_leaves_a_guide_out() -> None:
    frame = torch.rand(3, 8, 8)
    guides = frame_guides(frame, frame, torch.zeros(8, 8, 2), GuideWeights(edges=0, position=0))
    assert [guide.weight for guide in guides] == [6.0]


def test_places_are_x_then_y() -> None:
    assert places((2, 3)).tolist() == [[[0, 1, 2], [0, 1, 2]], [[0, 0, 0], [1, 1, 1]]]


def test_wrong_guides_are_refused() -> None:
    frame, flow = torch.rand(3, 8, 8), torch.zeros(8, 8, 2)
    with pytest.raises(ShapeError, match="target_frame"):
        frame_guides(frame, frame[:, :7], flow)
    with pytest.raises(ShapeError, match="flow"):
        frame_guides(frame, frame, flow[:7])
    with pytest.raises(ShapeError, match="temporal, target"):
        frame_guides(frame, frame, flow, temporal=Pair(frame, frame[:, 1:]))
    with pytest.raises(InputError, match="above 0"):
        GuideWeights(colour=0, edges=0, position=0)
    with pytest.raises(InputError, match="colour: expected a value from 0"):
        GuideWeights(colour=-1)
