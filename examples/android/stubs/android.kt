// A stub, to compile FaceDetector.kt without Android: the signatures that it uses, nothing that runs.
package android.content

import android.content.res.AssetManager

abstract class Context {
    abstract val assets: AssetManager
}
