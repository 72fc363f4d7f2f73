// An Android library; detector.tflite belongs into src/main/assets/. stubs/ is for the toolkit's tests alone.
plugins {
    id("com.android.library") version "8.13.0"
    id("org.jetbrains.kotlin.android") version "2.2.21"
}

android {
    namespace = "faces"
    compileSdk = 36
    defaultConfig { minSdk = 26 }
    androidResources { noCompress += "tflite" }
}

kotlin { jvmToolchain(17) }

dependencies { implementation("com.google.ai.edge.litert:litert:2.3.0") }
