import torch

from geneval_reward.train.sharded_tensors import gather_whole, is_sharded, place_like


def test_whole_tensors_stay_as_they_are():
    tensor, reference = torch.arange(3.0), torch.zeros(3)
    assert not is_sharded(tensor)
    assert place_like(tensor, reference) is tensor
    parameter = torch.nn.Parameter(tensor)
    found = gather_whole({"weight": parameter, "step": 3})
    assert torch.equal(found["weight"], tensor)
    assert not found["weight"].requires_grad
    assert found["step"] == 3


def test_tensors_go_to_the_other_ones_device():
    assert place_like(torch.zeros(2), torch.empty(5, device="meta")).device.type == "meta"
