"""A model where MTEB measures: text, image, and text-to-image tasks.

import mteb
from fwd2bot.plugins.mteb import Fwd2BotEncoder

mteb.evaluate(Fwd2BotEncoder("emoji-world"), mteb.get_tasks(tasks=["Flickr30kT2IRetrieval"]))
"""

from pathlib import Path

from fwd2bot.errors import InputError
from fwd2bot.plugins.sentence_transformers import MODALITIES, Fwd2BotModule

try:
    from mteb.models import ModelMeta
    from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper
    from sentence_transformers import SentenceTransformer
except ImportError as error:
    raise InputError("This needs MTEB: run pip install 'fwd2bot[mteb]'.") from error


class Fwd2BotEncoder(SentenceTransformerEncoderWrapper):  # type: ignore[misc]  # untyped where it is not installed
    """`model_name`: as `fwd2bot.load` takes it. MTEB files its results under that name and the model's fingerprint.

    MTEB alone gives a `revision`, which is not looked at: a version of a hub id stands behind its @.
    """

    def __init__(
        self,
        model_name: str | Path = "emoji-world",
        revision: str | None = None,
        *,
        device: str | None = None,
        num_tokens: int | None = None,
    ) -> None:
        module = Fwd2BotModule(model_name, num_tokens, device)
        super().__init__(SentenceTransformer(modules=[module], device="cpu"))
        count = module.embedder.num_tokens
        told = {
            "name": f"fwd2bot/{module.model.name.replace('/', '-')}-{count}",
            "revision": module.model.fingerprint.removeprefix("sha256:")[:12],
            "modalities": MODALITIES,
            "loader": type(self),
        }
        self.mteb_model_meta: ModelMeta = self.mteb_model_meta.model_copy(update=told)
