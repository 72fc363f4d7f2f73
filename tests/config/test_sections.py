import pytest

from lib.config import Config, Finetune
from lib.errors import ConfigError


def test_rates_of_a_stage() -> None:
    lesson = Finetune(lr=1e-2, decay_epoch=(3, 6))
    assert lesson.rates(cosine=False) == pytest.approx((1e-2, 1e-3, 1e-4))
    assert lesson.rates(cosine=True) == pytest.approx((1e-2, 1e-4))
    assert Finetune(lr=1e-2, lr_end=0).rates(cosine=True) == (1e-2, 0)
    assert Finetune(lr=(3e-3, 2e-3), decay_epoch=(3,)).rates(cosine=False) == (3e-3, 2e-3)


def test_a_cosine_needs_an_end() -> None:
    config = Config()
    config.TRAIN.stages, config.TRAIN.lr_schedule = ("pretrain",), "cosine"
    with pytest.raises(ConfigError, match=r"PRETRAIN\.lr_end must say where the cosine ends"):
        config.check()
    config.PRETRAIN.lr_end = 1e-5
    config.check()


def test_targets_of_a_search() -> None:
    config = Config()
    assert config.SEARCH.targets() == (0.5,)
    config.SEARCH.target = [0.9, 0.4]
    assert config.SEARCH.targets() == (0.9, 0.4)
    config.SEARCH.target_pruning_rate = 0.2
    assert config.SEARCH.targets() == (0.8,)
