"""Table 11, captions of signs. `python runs/tab11.py` makes the cells that it lacks."""

from tables import run

if __name__ == "__main__":
    run(11)
