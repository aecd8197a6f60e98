"""Bake the sprite sheet of the generated world from the Noto Color Emoji font.

    apt-get install fonts-noto-color-emoji fonts-dejavu-core && python runs/make_sprites.py

The sheet is committed, so that nobody needs a font to use the world; run this only to change the set.
Writes fwd2bot/data/world/sprites/{objects.png,letters.png,names.txt}. Font: SIL Open Font License 1.1.
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

OUT = Path(__file__).parent.parent / "fwd2bot/data/world/sprites"
EMOJI = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
LETTERS_FONT = "/usr/share/fonts/truetype/dejavu/DejaVuSans-Bold.ttf"
LETTERS = "BCDFGHJKLMNPRSTVWXYZ"
CELL = 64
COLUMNS = 16

OBJECTS = """
🐶 dog|🐱 cat|🐭 mouse|🐰 rabbit|🦊 fox|🐻 bear|🐼 panda|🐯 tiger|🦁 lion|🐮 cow|🐷 pig|🐸 frog|🐵 monkey|🐔 chicken
🐧 penguin|🐦 bird|🐤 chick|🦆 duck|🦉 owl|🐺 wolf|🐴 horse|🦄 unicorn|🐝 bee|🐛 caterpillar|🦋 butterfly|🐌 snail
🐞 ladybug|🐢 turtle|🐍 snake|🦖 dinosaur|🐙 octopus|🦀 crab|🐡 blowfish|🐠 fish|🐬 dolphin|🐳 whale|🦈 shark
🐊 crocodile|🦓 zebra|🐘 elephant|🐪 camel|🦒 giraffe|🐑 sheep|🦌 deer|🐓 rooster|🦃 turkey|🦚 peacock|🦜 parrot
🦢 swan|🦩 flamingo|🦔 hedgehog|🐉 dragon|🌵 cactus|🌲 pine tree|🌴 palm tree|🍀 clover|🍁 maple leaf|🍄 mushroom
🌷 tulip|🌹 rose|🌻 sunflower|🌍 globe|🌙 moon|⭐ star|⚡ lightning|🔥 flame|🌈 rainbow|☀ sun|☁ cloud|⛄ snowman
💧 drop|🍏 green apple|🍎 red apple|🍐 pear|🍊 tangerine|🍋 lemon|🍌 banana|🍉 watermelon|🍇 grapes|🍓 strawberry
🍒 cherry|🍑 peach|🍍 pineapple|🥥 coconut|🥝 kiwi|🍆 eggplant|🥑 avocado|🥦 broccoli|🥒 cucumber|🌶 pepper|🌽 corn
🥕 carrot|🥐 croissant|🍞 bread|🧀 cheese|🥚 egg|🥓 bacon|🍔 burger|🍟 fries|🍕 pizza|🌮 taco|🍣 sushi|🍦 ice cream
🍩 donut|🍪 cookie|🎂 cake|🍫 chocolate|🍿 popcorn|☕ coffee|🍺 beer|🍷 wine|⚽ soccer ball|🏀 basketball
⚾ baseball|🏆 trophy|🎯 target|🎲 dice|🎸 guitar|🎻 violin|🥁 drum|🚗 car|🚕 taxi|🚌 bus|🚒 fire truck|🚜 tractor
🚲 bicycle|🛵 scooter|✈ airplane|🚀 rocket|🚁 helicopter|⛵ sailboat|⚓ anchor|🏠 house|🏰 castle|⛺ tent|📱 phone
💻 laptop|📷 camera|📺 television|⏰ alarm clock|💡 light bulb|🔑 key|🔨 hammer|✂ scissors|🔒 lock|🔔 bell
📚 books|✏ pencil|🎁 gift|🎈 balloon|💎 gem|👑 crown|🎩 hat|👗 dress|👟 shoe|🧦 socks|☂ umbrella|🧲 magnet
🧸 teddy bear|🤖 robot|👻 ghost|💀 skull|❤ heart|🪑 chair|🚽 toilet|🧹 broom
"""


def emoji(character: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """One character, cropped to its ink and fitted into a square of CELL pixels."""
    canvas = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(canvas).text((10, 10), character, font=font, embedded_color=True)
    box = canvas.getbbox()
    if box is None:
        raise SystemExit(f"the font has no picture of {character!r}")
    ink = canvas.crop(box)
    ink.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
    tile = Image.new("RGBA", (CELL, CELL))
    tile.paste(ink, ((CELL - ink.width) // 2, (CELL - ink.height) // 2))
    return tile


def letter(character: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """One letter as an 8-bit mask of 32 x 48 pixels, ink filling the height."""
    canvas = Image.new("L", (100, 100))
    ImageDraw.Draw(canvas).text((20, 10), character, font=font, fill=255)
    ink = canvas.crop(canvas.getbbox())
    return ink.resize((30, 46), Image.Resampling.LANCZOS)


def main() -> int:
    pairs = [entry.strip().split(" ", 1) for entry in OBJECTS.replace("\n", "|").split("|") if entry.strip()]
    names = [name for _, name in pairs]
    assert len(set(names)) == len(names), [n for n in names if names.count(n) > 1]
    font = ImageFont.truetype(EMOJI, 109)
    rows = -(-len(pairs) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * CELL, rows * CELL))
    for number, (character, _) in enumerate(pairs):
        sheet.paste(emoji(character, font), (number % COLUMNS * CELL, number // COLUMNS * CELL))
    letters = Image.new("L", (32 * len(LETTERS), 48))
    letter_font = ImageFont.truetype(LETTERS_FONT, 60)
    for number, character in enumerate(LETTERS):
        letters.paste(letter(character, letter_font), (32 * number + 1, 1))
    OUT.mkdir(parents=True, exist_ok=True)
    sheet.save(OUT / "objects.png", optimize=True)
    letters.save(OUT / "letters.png", optimize=True)
    (OUT / "names.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    print(len(names), "objects;", (OUT / "objects.png").stat().st_size, "bytes", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
