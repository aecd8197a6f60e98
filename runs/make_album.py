"""Write the bundled sample album (fwd2bot/bundled/album/): `python runs/make_album.py`."""

from pathlib import Path

from fwd2bot.data.world.writers import write_album

ALBUM = Path(__file__).parent.parent / "fwd2bot/bundled/album"

if __name__ == "__main__":
    for old in ALBUM.glob("*.png"):
        old.unlink()
    print(write_album(ALBUM))
