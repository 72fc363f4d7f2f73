// The page: detector.onnx and a picture or the camera in, boxes on the canvas. Nothing leaves the machine.
// Addresses may come with the page's own: ?model=detector.onnx&picture=people.jpg&threshold=0.5

import * as ort from "onnxruntime-web/wasm";
import { faces, fit, grey, pixels, readDescription } from "./detector.mjs";

const MAX_SIDE = 1024; // longer pictures are scaled down for files of any size
const element = (id) => document.getElementById(id);
const canvas = element("canvas");
let detector = null; // { session, description }
let source = null; // what was shown last: an ImageBitmap, or the camera's video

async function open(bytes) {
  const description = readDescription(bytes);
  detector = { description, session: await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] }) };
}

// Boxes {x1, y1, x2, y2, score} in px of the picture, best first.
async function detect(picture, width, height) {
  const { session, description } = detector;
  const { inputHeight, inputWidth, filledHeight, filledWidth } = fit(height, width, description.size, MAX_SIDE);
  const context = new OffscreenCanvas(inputWidth, inputHeight).getContext("2d", { willReadFrequently: true });
  context.fillStyle = grey;
  context.fillRect(0, 0, inputWidth, inputHeight);
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, filledWidth, filledHeight);
  const rgb = pixels(context.getImageData(0, 0, inputWidth, inputHeight).data);
  const image = new ort.Tensor("float32", rgb, [1, inputHeight, inputWidth, 3]);
  const { boxes, scores } = await session.run({ image });
  const threshold = element("threshold").valueAsNumber || 0.5;
  const [across, down] = [width / filledWidth, height / filledHeight];
  const outputs = [boxes.data, scores.data, description, inputHeight, inputWidth];
  return faces(...outputs, threshold, across, down);
}

async function show() {
  if (!detector || !source) return;
  const [width, height] = [source.videoWidth ?? source.width, source.videoHeight ?? source.height];
  const start = performance.now();
  const found = await detect(source, width, height);
  const ms = performance.now() - start;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.drawImage(source, 0, 0);
  context.lineWidth = Math.max(1, Math.round(Math.max(width, height) / 400));
  context.strokeStyle = context.fillStyle = "#00e05a";
  context.font = `${Math.max(10, 6 * context.lineWidth)}px sans-serif`;
  for (const { x1, y1, x2, y2, score } of found) {
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    context.fillText(score.toFixed(2), x1, Math.max(context.lineWidth * 6, y1 - context.lineWidth - 2));
  }
  say(`${found.length} ${found.length === 1 ? "face" : "faces"}, ${ms.toFixed(1)} ms from picture to boxes`, "done");
  element("said").dataset.faces = JSON.stringify(found);
}

function say(text, state) {
  element("said").textContent = text;
  element("said").dataset.state = state;
}

const guarded = (work) => (...given) => work(...given).catch((error) => say(error.message ?? error, "error"));

const bytesAt = async (address) => {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address}: ${answer.status} ${answer.statusText}`);
  return answer.blob();
};

async function useModel(blob) {
  await open(new Uint8Array(await blob.arrayBuffer()));
  say("Ready: choose a picture.", "ready");
  await show();
}

async function usePicture(blob) {
  stopCamera();
  source = await createImageBitmap(blob);
  await show();
}

function stopCamera() {
  for (const track of source?.srcObject?.getTracks() ?? []) track.stop();
}

async function useCamera() {
  if (!detector) throw new Error("Choose detector.onnx first.");
  stopCamera();
  const video = document.createElement("video");
  video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" } });
  await video.play();
  source = video;
  while (source === video && video.srcObject.active) {
    await show();
    await new Promise(requestAnimationFrame);
  }
}

element("model").addEventListener("change", guarded(({ target }) => useModel(target.files[0])));
element("picture").addEventListener("change", guarded(({ target }) => usePicture(target.files[0])));
element("threshold").addEventListener("change", guarded(show));
element("camera").addEventListener("click", guarded(useCamera));

guarded(async () => {
  const asked = new URLSearchParams(location.search);
  if (asked.has("threshold")) element("threshold").value = asked.get("threshold");
  if (asked.has("model")) await useModel(await bytesAt(asked.get("model")));
  if (asked.has("picture")) await usePicture(await bytesAt(asked.get("picture")));
})();
