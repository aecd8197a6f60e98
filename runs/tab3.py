"""Table 3, retrieval. `python runs/tab3.py` makes the cells that it lacks."""

from tables import run

if __name__ == "__main__":
    run(3)
