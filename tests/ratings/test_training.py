"""The trainings of notebook 07: a rerun repeats nothing, whether epochs or steps end it."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen2ForCausalLM, set_seed

from scripts import chat
from scripts.ratings.training import train
from tests.test_models import tiny

LORA = {"r": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}


@pytest.mark.parametrize("end", [{"num_train_epochs": 2}, {"max_steps": 3}])
def test_a_rerun_ends_in_the_same_weights_and_tells_the_same_speed(tokenizer, tmp_path, end):
    row = [{"role": "user", "content": "钟离你能打几颗星"}, {"role": "assistant", "content": "9.7"}]
    rows = [chat.encode(tokenizer, row)] * 4
    settings = {"per_device_train_batch_size": 2, "lr_scheduler_type": "constant", "use_cpu": True} | end
    settings |= {"learning_rate": 0.01}

    def weights(times: int) -> tuple[list[torch.Tensor], dict]:
        for _ in range(times):
            set_seed(0)
            model = get_peft_model(Qwen2ForCausalLM(tiny(vocab_size=len(tokenizer))), LoraConfig(**LORA))
            found = train(
                model, tokenizer, rows, rows, settings, LORA, tmp_path, measure=lambda model: {}, packed=False
            )
        trained = [weight.detach() for weight in found[0].model.parameters() if weight.requires_grad]
        return trained, found[1]

    (once, speed), (again, same_speed) = weights(1), weights(3)
    assert any(weight.any() for weight in once[1::2]), "the second matrix of an adapter begins at zero"
    assert all(torch.equal(one, other) for one, other in zip(once, again, strict=True))
    if "num_train_epochs" in end:
        assert same_speed == pytest.approx(speed)
