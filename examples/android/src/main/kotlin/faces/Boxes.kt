// From a network's outputs to boxes, in plain Kotlin: it runs on any JVM.
package faces

import kotlin.math.exp
import kotlin.math.max
import kotlin.math.min
import kotlin.math.truncate

/** A face: corners in px and a score 0..1. */
data class Face(val x1: Float, val y1: Float, val x2: Float, val y2: Float, val score: Float) {
    internal val area get() = (x2 - x1) * (y2 - y1)

    internal fun scaled(across: Float, down: Float) = Face(x1 * across, y1 * down, x2 * across, y2 * down, score)

    /** Corner, width and height each cut to whole px. */
    internal fun inWholePx(): Face {
        val (x, y) = truncate(x1) to truncate(y1)
        return Face(x, y, x + truncate(x2 - x1), y + truncate(y2 - y1), score)
    }
}

/** What a detector's file says about itself, in its metadata: the size of its images and what its boxes mean. */
class Description private constructor(private val json: String) {
    private val strides = numbers("strides")
    private val sizes = numbers("sizes")
    private val scales = numbers("scales")
    private val variances = numbers("variances")
    private val ratio = number("ratio")
    private val place = number("place")
    private val cornerScale = number("corner_scale")
    private val corners = text("code") == "corners"
    private val wholePx = value("whole_px", "(true|false)") == "true"
    val height: Int
    val width: Int

    /** The network's outputs by name; landmarks are not decoded here. */
    val outputs = listOf("boxes", "scores") + if (number("landmarks") > 0f) listOf("landmarks") else emptyList()

    init {
        require(number("face_detector") == 1f && text("code") in listOf("centre", "corners", "plain")) {
            "its boxes are of an unknown kind: use the code of the toolkit that wrote it"
        }
        val size = numbers("size")
        require(size.size == 2) { "it takes images of any size: write it for one, with tools/export.py --size" }
        height = size[0].toInt()
        width = size[1].toInt()
    }

    /**
     * Faces of at least a score, best first. boxes: offsets [n * 4]; scores: [n]. They are in px of the picture, of
     * which a px of the network's image is across x down.
     */
    fun faces(
        boxes: FloatArray,
        scores: FloatArray,
        threshold: Float,
        across: Float = 1f,
        down: Float = 1f,
        iouThreshold: Float = 0.3f,
    ): List<Face> {
        val levels = levels()
        val count = levels.sumOf { it.count }
        require(count == scores.size) { "expected $count anchors, the network gives ${scores.size}" }
        val best = scores.indices.filter { scores[it] >= threshold }.sortedByDescending { scores[it] }
        val found = best.take(MAX_CANDIDATES).map { decode(boxes, scores[it], levels, it).scaled(across, down) }
        return nms(found, wholePx, iouThreshold)
    }

    private class Level(val stride: Float, val size: Float, val columns: Int, val count: Int)

    /** Level 0 has the image over its stride cells, rounded up, each further one half of the one before, rounded up. */
    private fun levels(): List<Level> {
        val first = strides[0].toInt()
        var rows = (height + first - 1) / first
        var columns = (width + first - 1) / first
        return strides.indices.map { number ->
            val level = Level(strides[number], sizes[number], columns, rows * columns * scales.size)
            rows = (rows + 1) / 2
            columns = (columns + 1) / 2
            level
        }
    }

    private fun decode(boxes: FloatArray, score: Float, levels: List<Level>, index: Int): Face {
        var rest = index
        val level = levels.first { level -> (rest < level.count).also { inside -> if (!inside) rest -= level.count } }
        val cell = rest / scales.size
        val w = level.size * scales[rest % scales.size]
        val h = w * ratio
        val x = (cell % level.columns + place) * level.stride
        val y = (cell / level.columns + place) * level.stride
        val (a, b, c, d) = boxes.slice(4 * index..4 * index + 3)
        if (corners) {
            val x1 = x - w / 2 + a / cornerScale * w
            val y1 = y - h / 2 + b / cornerScale * h
            val x2 = max(x1, x + w / 2 + c / cornerScale * w)
            return Face(x1, y1, x2, max(y1, y + h / 2 + d / cornerScale * h), score)
        }
        val centreX = x + a * variances[0] * w
        val centreY = y + b * variances[0] * h
        val halfW = w * exp(min(c * variances[1], MAX_LOG_SIZE)) / 2
        val halfH = h * exp(min(d * variances[1], MAX_LOG_SIZE)) / 2
        return Face(centreX - halfW, centreY - halfH, centreX + halfW, centreY + halfH, score)
    }

    private fun value(name: String, pattern: String) =
        requireNotNull(Regex("\"$name\": $pattern").find(json)) { "its description lacks $name" }.groupValues[1]

    private fun number(name: String) = value(name, "([-0-9.e]+)").toFloat()

    private fun text(name: String) = value(name, "\"([^\"]*)\"")

    /** Empty where the value is no list. */
    private fun numbers(name: String) =
        value(name, "(\\[[^]]*]|\"any\")").trim('[', ']', '"').split(", ").mapNotNull { it.toFloatOrNull() }

    companion object {
        private const val MAX_CANDIDATES = 5000
        private const val MAX_LOG_SIZE = 10f

        /** Finds the description in the bytes of a file; IllegalArgumentException where there is none. */
        fun of(file: ByteArray): Description {
            val text = String(file, Charsets.ISO_8859_1)
            val start = text.indexOf("{\"face_detector\": ")
            require(start >= 0) { "no face_detector in its metadata: write the file anew with tools/export.py" }
            return Description(text.substring(start, min(text.length, start + 4096)))
        }
    }
}

/**
 * Those of the faces, best first, that no better one overlaps by more than iouThreshold. wholePx: they are compared with
 * corner, width and height cut to whole px each, as OpenCV does.
 */
fun nms(faces: List<Face>, wholePx: Boolean, iouThreshold: Float, maxDetections: Int = 750): List<Face> {
    val kept = mutableListOf<Face>()
    val compared = mutableListOf<Face>()
    for (face in faces) {
        if (kept.size == maxDetections) break
        val own = if (wholePx) face.inWholePx() else face
        if (compared.none { overlaps(it, own, iouThreshold) }) {
            kept += face
            compared += own
        }
    }
    return kept
}

private fun overlaps(a: Face, b: Face, iouThreshold: Float): Boolean {
    val width = max(0f, min(a.x2, b.x2) - max(a.x1, b.x1))
    val height = max(0f, min(a.y2, b.y2) - max(a.y1, b.y1))
    return width * height > iouThreshold * (a.area + b.area - width * height)
}
