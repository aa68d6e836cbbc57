"""Readability checks of a figure by the boxes of its renderer."""

from itertools import combinations

from matplotlib.backends.backend_agg import FigureCanvasAgg

SMALLEST, TALLEST = 7, 16  # points, inches
TOUCHING = 1.0  # pixels by which boxes may overlap: rounding


def list_texts(figure):
    """The visible tick labels, axis labels, titles and legend entries."""
    texts = [figure._suptitle]
    for axes in figure.axes:
        texts += [axes.title, axes.xaxis.label, axes.yaxis.label, *list_tick_labels(axes)]
        for child in axes.child_axes:
            texts += [child.xaxis.label, *child.get_xticklabels()]
    for legend in figure.legends:
        texts += [*legend.get_texts(), legend.get_title()]
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


def list_tick_labels(axes):
    """The labels whose ticks lie within the axis."""
    found = []
    for axis, (low, high) in ((axes.xaxis, sorted(axes.get_xlim())), (axes.yaxis, sorted(axes.get_ylim()))):
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if low - 1e-9 <= tick.get_loc() <= high + 1e-9:
                found += [label for label in (tick.label1, tick.label2) if label.get_visible()]
    return found


def find_overlaps(figure):
    """Pairs of texts that lie on each other."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in list_texts(figure)]
    return [
        (a, b)
        for (a, one), (b, other) in combinations(boxes, 2)
        if min(one.x1, other.x1) - max(one.x0, other.x0) > TOUCHING
        and min(one.y1, other.y1) - max(one.y0, other.y0) > TOUCHING
    ]


def check_readable(figure):
    """Labelled axes, no small font, no overlap, nothing outside, a bounded height."""
    assert not find_overlaps(figure)
    for axes in figure.axes:
        assert axes.get_ylabel(), "a panel or colour bar without a label"
        assert axes.get_xlabel() or axes.get_label() == "<colorbar>"
    assert figure._suptitle.get_text()
    for text in list_texts(figure):
        assert text.get_fontsize() >= SMALLEST, text.get_text()
        box = text.get_window_extent()
        assert box.x0 >= -1, text.get_text()
        assert box.y0 >= -1, text.get_text()
        assert box.x1 <= figure.bbox.x1 + 1, text.get_text()
        assert box.y1 <= figure.bbox.y1 + 1, text.get_text()
    assert figure.get_figheight() <= TALLEST
