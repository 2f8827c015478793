"""The tables of what labels become by a person's eyes, and of how fluent the page is."""

from benchmarks.markdown import Read, markdown, where

STEPS = {
    "named": "clusters named by their 12 most confident images, those of one name merged",
    "corrected": "and images moved, doubtful ones of the first report first",
    "corrected_in_second_round": "or moved in the second round, where the classifier doubts",
}


def labels(read: Read) -> str:
    """Accuracy of labels and of the classifier on new images, before and after images are moved."""
    result = read("labels.json")
    rows = []
    for key, title in STEPS.items():
        row = result[key]
        accuracies = (row["labels_acc"], row["classifier_acc_on_new_images"])
        moved = f"{row['moved']:,}" if row["moved"] else ""
        looked_at = f"{row['looked_at']:,}" if "looked_at" in row else ""
        rows.append([title, looked_at, moved, *(f"{100 * value:.1f}" for value in accuracies)])
    head = ["CIFAR-10 (JPEG copy)", "looked at", "moved", "ACC of labels.csv, %", "ACC on new images, %"]
    about = (
        f"{result['images']:,} images in {result['clusters']} clusters, of which {result['merged']} were merged into "
        f"another: {result['classes_named']} names; as many new images"
    )
    return markdown(head, rows) + f"\n{about}. {where(result['machine'])}.\n"


def scrolling(read: Read) -> str:
    """Frames a second of the contact sheet, by the size of its tiles."""
    result = read("scrolling.json")
    keys = {
        "frames a second": "frames_per_second",
        "median, ms": "median_ms",
        "slowest of 20, ms": "slowest_of_20_ms",
        "longest, ms": "longest_ms",
    }
    rows = [[f"{name} tiles", *(str(row[key]) for key in keys.values())] for name, row in result["scrolling"].items()]
    about = (
        f"{result['images']:,} images, a page of {result['megabytes']} MB, usable after "
        f"{result['usable_after_ms'] / 1000:.1f} s. Chromium {result['chromium']} without a screen or a GPU"
    )
    return markdown(["the sheet, scrolled", *keys], rows) + f"\n{about}. {where(result['machine'])}.\n"
