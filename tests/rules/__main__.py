"""Each alert with the promtool test that makes it fire and one that shows it quiet: python -m tests.rules"""

from __future__ import annotations

from tests.rules.reading import table


def main() -> None:
    print("| alert | fires in | stays quiet in |\n|---|---|---|")
    for alert, firing, quiet in table():
        print(f"| {alert} | {firing or 'none'} | {quiet or 'none'} |")


if __name__ == "__main__":
    main()
