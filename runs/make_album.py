"""Write the bundled sample album (fwd2bot/bundled/album/): `python runs/make_album.py`."""

from pathlib import Path

from fwd2bot.data.world.writers import write_album

if __name__ == "__main__":
    print(write_album(Path(__file__).parent.parent / "fwd2bot/bundled/album"))
