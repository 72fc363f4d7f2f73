// detector.tflite on Android, by LiteRT's CompiledModel.
package faces

import android.content.Context
import android.graphics.Bitmap
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import kotlin.math.max
import kotlin.math.min
import kotlin.math.roundToInt

/** Finds faces with a LiteRT file of a fixed size among the app's assets. Use it from one thread. */
class FaceDetector(
    context: Context,
    asset: String = "detector.tflite",
    accelerator: Accelerator = Accelerator.CPU,
) : AutoCloseable {
    private val description = Description.of(context.assets.open(asset).use { it.readBytes() })
    private val model = CompiledModel.create(context.assets, asset, CompiledModel.Options(accelerator))
    private val inputs = mapOf("image" to model.createInputBuffer(inputName = "image"))
    private val outputs = description.outputs.associateWith { model.createOutputBuffer(outputName = it) }
    private val pixels = IntArray(description.height * description.width)
    private val image = FloatArray(3 * pixels.size)

    /** Faces in px of the picture, best first. The picture must be an ARGB_8888 bitmap. */
    fun detect(picture: Bitmap, threshold: Float = 0.5f): List<Face> {
        val factor = min(description.width.toFloat() / picture.width, description.height.toFloat() / picture.height)
        val width = max(1, (picture.width * factor).roundToInt())
        val height = max(1, (picture.height * factor).roundToInt())
        pixels.fill(GREY)
        val scaled = Bitmap.createScaledBitmap(picture, width, height, true)
        scaled.getPixels(pixels, 0, description.width, 0, 0, width, height)
        for ((at, pixel) in pixels.withIndex()) {
            for (channel in 0..2) image[3 * at + channel] = (pixel shr (16 - 8 * channel) and 255).toFloat()
        }
        inputs.getValue("image").writeFloat(image)
        model.run(inputs, outputs)
        val (across, down) = picture.width.toFloat() / width to picture.height.toFloat() / height
        val (boxes, scores) = listOf("boxes", "scores").map { outputs.getValue(it).readFloat() }
        return description.faces(boxes, scores, threshold, across, down)
    }

    override fun close() {
        (inputs.values + outputs.values).forEach { it.close() }
        model.close()
    }

    private companion object {
        const val GREY = 0x757575 // 117, as in Python
    }
}
