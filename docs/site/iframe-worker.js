// The search runs in a worker, which a browser does not give to a page that was opened as a file. There this class stands in
// for it: the worker's script runs in a hidden frame, and messages go to and fro as events.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      const inside = frame.contentWindow
      this.inside = inside
      inside.postMessage = (data) => this.hear(data)
      // Called as a worker would: the scripts come one after the other, and the call ends when the last has run.
      inside.importScripts = (...urls) => Promise.all(urls.map((one) => this.load(one)))
      this.ready = this.load(new URL(url, location.href).href)
    }

    hear(data) {
      const event = new MessageEvent("message", { data })
      this.dispatchEvent(event)
      if (this.onmessage) this.onmessage(event)
    }

    load(url) {
      return new Promise((done, failed) => {
        const script = this.inside.document.createElement("script")
        script.src = url
        script.async = false
        script.onload = done
        script.onerror = failed
        this.inside.document.body.append(script)
      })
    }

    postMessage(data) {
      this.ready = this.ready.then(() => {
        const event = new this.inside.MessageEvent("message", { data })
        this.inside.dispatchEvent(event)
        if (this.inside.onmessage) this.inside.onmessage(event)
      })
    }

    terminate() {
      this.inside.frameElement.remove()
    }
  }
}
