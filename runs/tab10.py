"""Table 10, compositions by one word. `python runs/tab10.py` makes the cells that it lacks."""

from tables import run

if __name__ == "__main__":
    run(10)
