// A stub, as in android.kt.
package android.graphics

class Bitmap {
    val width: Int get() = TODO("stub")
    val height: Int get() = TODO("stub")
    fun getPixels(pixels: IntArray, offset: Int, stride: Int, x: Int, y: Int, width: Int, height: Int): Unit =
        TODO("stub")

    companion object {
        fun createScaledBitmap(src: Bitmap, dstWidth: Int, dstHeight: Int, filter: Boolean): Bitmap = TODO("stub")
    }
}
