// Runs in the page of ComfyUI's front end: builds a graph from its description, opens one and looks whether it is sound.
(() => {
  const BYPASS = 4 // LGraphEventMode, which not every version exports

  function widgets(node, values) {
    for (const [name, value] of Object.entries(values)) {
      const widget = name ? node.widgets?.find((one) => one.name === name) : node.widgets?.[0]
      if (!widget) throw new Error(`${node.type} has no widget ${name}`)
      if (widget.options?.values && Array.isArray(widget.options.values) && !widget.options.values.includes(value))
        widget.options.values.push(value) // a file that this machine does not have
      widget.value = value
    }
  }

  function connect(node, name, from, output) {
    const target = node.findInputSlot(name)
    const source = from.findOutputSlot(output)
    if (target < 0) throw new Error(`${node.type} has no input ${name}`)
    if (source < 0) throw new Error(`${from.type} has no output ${output}`)
    if (!from.connect(source, node, target)) throw new Error(`${from.type}.${output} does not fit ${node.type}.${name}`)
  }

  // Rows below each other, columns beside each other, the nodes of a cell below each other in their order.
  function place(made, spec) {
    const cells = new Map()
    const room = new Map() // what stays free below a node
    for (const [key, one] of Object.entries(spec.nodes)) {
      const node = made[key]
      room.set(node, Math.max(0, spec.room - one.height))
      const size = node.computeSize()
      node.setSize([Math.max(one.width, size[0]), size[1] + one.height])
      const row = cells.get(one.row) ?? new Map()
      cells.set(one.row, row.set(one.column, [...(row.get(one.column) ?? []), node]))
    }
    const title = LiteGraph.NODE_TITLE_HEIGHT
    const widths = new Map()
    for (const row of cells.values())
      for (const [column, nodes] of row)
        widths.set(column, Math.max(widths.get(column) ?? 0, ...nodes.map((node) => node.size[0])))
    const columns = [...widths.keys()].sort((a, b) => a - b)
    let top = 0
    for (const row of [...cells.keys()].sort((a, b) => a - b)) {
      let [x, bottom] = [0, top]
      for (const column of columns) {
        let y = top
        for (const node of cells.get(row).get(column) ?? []) {
          node.pos = [x, y]
          node.setSize([widths.get(column), node.size[1]])
          bottom = Math.max(bottom, y + node.size[1] + room.get(node))
          y += node.size[1] + room.get(node) + title + spec.gap
        }
        x += widths.get(column) + 3 * spec.gap
      }
      top = bottom + 2 * title + spec.title + 2 * spec.gap
    }
    return room
  }

  function frame(title, nodes, room, spec) {
    const left = Math.min(...nodes.map((node) => node.pos[0])) - spec.margin
    const top = Math.min(...nodes.map((node) => node.pos[1])) - LiteGraph.NODE_TITLE_HEIGHT - spec.title
    const right = Math.max(...nodes.map((node) => node.pos[0] + node.size[0])) + spec.margin
    const bottom = Math.max(...nodes.map((node) => node.pos[1] + node.size[1] + room.get(node))) + spec.margin
    const group = new LiteGraph.LGraphGroup(title)
    group.pos = [left, top]
    group.size = [right - left, bottom - top]
    app.graph.add(group)
  }

  window.zeroToHeroBuild = (spec) => {
    app.graph.clear()
    app.canvas.ds.scale = 1
    app.canvas.ds.offset = [120, 210] // beside the front end's own bars
    const made = {}
    for (const [key, one] of Object.entries(spec.nodes)) {
      const node = LiteGraph.createNode(one.type)
      if (!node) throw new Error(`no node ${one.type}`)
      app.graph.add(node)
      if (one.title) node.title = one.title
      if (one.tint) node.color = one.tint
      if (one.files.length) node.properties.models = one.files
      widgets(node, one.values)
      made[key] = node
    }
    for (const [key, one] of Object.entries(spec.nodes))
      for (const [input, [from, output]] of Object.entries(one.links)) connect(made[key], input, made[from], output)
    for (const key of spec.bypassed) made[key].mode = BYPASS
    const room = place(made, spec)
    for (const [title, keys] of Object.entries(spec.groups)) frame(title, keys.map((key) => made[key]), room, spec)
    return JSON.stringify(app.graph.serialize())
  }

  function box(node) {
    const title = LiteGraph.NODE_TITLE_HEIGHT
    return [node.pos[0], node.pos[1] - title, node.size[0], node.size[1] + title]
  }

  function problems(nodes) {
    const found = []
    nodes.forEach((a, i) => {
      if (a.has_errors) found.push(`${a.title} is red`)
      for (const b of nodes.slice(i + 1)) {
        const [ax, ay, aw, ah] = box(a)
        const [bx, by, bw, bh] = box(b)
        if (ax < bx + bw && bx < ax + aw && ay < by + bh && by < ay + ah) found.push(`${a.title} overlaps ${b.title}`)
      }
      for (const group of app.graph.groups) {
        const [x, y, width, height] = [...group.pos, ...group.size]
        const [ax, ay, aw, ah] = box(a)
        const starts = x <= ax && ax < x + width && y <= ay && ay < y + height
        if (starts && (ax + aw > x + width || ay + ah > y + height)) found.push(`${a.title} sticks out of ${group.title}`)
      }
      const context = document.createElement('canvas').getContext('2d')
      context.font = `${LiteGraph.NODE_TEXT_SIZE}px Arial`
      const wide = context.measureText(a.getTitle()).width + LiteGraph.NODE_TITLE_HEIGHT
      if (wide > a.size[0]) found.push(`the title of ${a.title} does not fit: ${Math.round(wide)} of ${a.size[0]}`)
    })
    return found
  }

  window.zeroToHeroOpen = async (saved) => {
    await app.loadGraphData(saved, true, false)
    const nodes = app.graph.nodes ?? app.graph._nodes
    const all = [...nodes.map(box), ...app.graph.groups.map((one) => [...one.pos, ...one.size])]
    const left = Math.min(...all.map((one) => one[0])) - 30
    const top = Math.min(...all.map((one) => one[1])) - 30
    const width = Math.max(...all.map((one) => one[0] + one[2])) + 30 - left
    const height = Math.max(...all.map((one) => one[1] + one[3])) + 30 - top
    const screen = app.canvas.canvas.getBoundingClientRect()
    const room = [screen.width - 200, screen.height - 250] // beside the front end's own bars
    const scale = Math.min(1, room[0] / width, room[1] / height)
    app.canvas.ds.scale = scale
    app.canvas.ds.offset = [-left + 90 / scale, -top + 120 / scale]
    app.canvas.setDirty(true, true)
    await new Promise((done) => setTimeout(done, 2000)) // nodes of the new renderer measure themselves when drawn
    const { output } = await app.graphToPrompt()
    const clip = { x: screen.x + 90, y: screen.y + 120, width: width * scale, height: height * scale }
    return { nodes: nodes.length, problems: problems(nodes), prompt: output, clip }
  }
})()
