"""Table 4, compositions (SugarCrepe's seven kinds). `python runs/tab4.py` makes the cells that it lacks."""

from tables import run

if __name__ == "__main__":
    run(4)
