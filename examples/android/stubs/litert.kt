// A stub, to compile FaceDetector.kt without LiteRT: the signatures that it uses, nothing that runs.
package com.google.ai.edge.litert

import android.content.res.AssetManager

enum class Accelerator { CPU, GPU, NPU }

class TensorBuffer : AutoCloseable {
    fun writeFloat(data: FloatArray): Unit = TODO("stub")
    fun readFloat(): FloatArray = TODO("stub")
    override fun close(): Unit = TODO("stub")
}

class CompiledModel : AutoCloseable {
    class Options(vararg accelerators: Accelerator)

    fun createInputBuffer(inputName: String, signature: String? = null): TensorBuffer = TODO("stub")
    fun createOutputBuffer(outputName: String, signature: String? = null): TensorBuffer = TODO("stub")
    fun run(inputs: Map<String, TensorBuffer>, outputs: Map<String, TensorBuffer>, signature: String? = null): Unit =
        TODO("stub")
    override fun close(): Unit = TODO("stub")

    companion object {
        fun create(assetManager: AssetManager, assetName: String, options: Options): CompiledModel = TODO("stub")
    }
}
