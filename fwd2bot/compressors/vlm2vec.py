"""VLM2Vec: the output at the last token of picture and instruction, or of the caption as it is.

    [visual tokens; "Find an image caption describing the given image."] ──> output at the last token
    [caption]                                                            ──> the same

No chat around it; trained on pairs, from pictures to captions alone, at temperature 0.02. One vector serves both
directions of a search. Published with DoRA, which also adapts the tower; here it is the LoRA of all methods. Source:
arXiv 2410.05160.
"""

from fwd2bot.compressors.e5v import E5V
from fwd2bot.data.conversations import ChatTemplate

BARE = ChatTemplate(name="bare", before_image="", after_image=" ", question="{}", answer=" {}")


class VLM2Vec(E5V):
    """As E5-V, with other prompts and another training."""

    one_way = True
    text_alone = False
    prompts = ("Find an image caption describing the given image.", "{}")

    @property
    def chat(self) -> ChatTemplate:
        return BARE
