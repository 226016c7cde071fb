// Panning, zooming and hovering for the picture of a graph. Comes after hover.js.
const svg=document.querySelector('main>svg'),full=svg.viewBox.baseVal,W=full.width,H=full.height;
let v={x:0,y:0,w:W,h:H},moved=false;
const put=()=>svg.setAttribute('viewBox',[v.x,v.y,v.w,v.h].join(' '));
function fit(){moved=false;const r=svg.getBoundingClientRect(),k=Math.max(W/r.width,H/r.height,.66);
v={w:r.width*k,h:r.height*k};v.x=(W-v.w)/2;v.y=H<v.h?Math.max((H-v.h)/2,-20):0;put()}
function zoom(f,cx,cy){const r=svg.getBoundingClientRect(),px=v.x+(cx-r.left)/r.width*v.w,py=v.y+(cy-r.top)/r.height*v.h;
moved=true;f=Math.min(f,20*W/v.w);v.w*=f;v.h*=f;v.x=px-(cx-r.left)/r.width*v.w;v.y=py-(cy-r.top)/r.height*v.h;put()}
const mid=f=>()=>{const r=svg.getBoundingClientRect();zoom(f,r.left+r.width/2,r.top+r.height/2)};
on('fit',fit);on('in',mid(.8));on('out',mid(1.25));
addEventListener('resize',()=>{if(!moved)return fit();const r=svg.getBoundingClientRect();v.h=v.w*r.height/r.width;put()});

svg.addEventListener('wheel',e=>{e.preventDefault();zoom(Math.exp(e.deltaY*.0015),e.clientX,e.clientY)},{passive:false});
let drag=null;
svg.addEventListener('pointerdown',e=>{drag=[e.clientX,e.clientY];svg.setPointerCapture(e.pointerId)});
svg.addEventListener('pointerup',()=>drag=null);
svg.addEventListener('pointermove',e=>{if(drag){moved=true;const r=svg.getBoundingClientRect();v.x-=(e.clientX-drag[0])/r.width*v.w;
v.y-=(e.clientY-drag[1])/r.height*v.h;drag=[e.clientX,e.clientY];put();say();return}
const g=e.target.closest&&e.target.closest('g.hit');say(g&&g.dataset.said,e);glow(g)});
svg.addEventListener('pointerleave',()=>{say();glow()});
for(const t of svg.querySelectorAll('g.hit>title')){t.parentNode.dataset.said=t.textContent;t.remove()}
const arrows=[...svg.querySelectorAll('path.arrow')];
function glow(g){const id=g&&g.dataset.node,up=g&&g.parentNode;for(const a of arrows)
a.style.opacity=!id||a.parentNode!==up||a.dataset.from===id||a.dataset.to===id?'':'.2'}
addEventListener('keydown',e=>{if(e.key==='+')mid(.8)();else if(e.key==='-')mid(1.25)();else if(e.key==='0')fit()});
fit();
